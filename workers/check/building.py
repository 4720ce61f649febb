"""Builds a model as a study would, and finds the image sizes that it takes."""

import traceback
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.models import PretrainedCfg

from workers.models.backbones import Backbone, create_backbone

_MESSAGE_CHARS = 160
_TORCH = Path(torch.__file__).parent


class RefusedError(Exception):
    """A model cannot be built, or cannot take an image; the message is the model's, in one line."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A model that takes images of a size."""

    backbone: Backbone
    is_resized: bool
    """Whether the model was built for the size, not for its own size."""


def build(model: str, *, device: torch.device, image_size: int | None = None) -> Backbone:
    """Builds a model on a device.

    Args:
        model: A timm model name.
        device: The meta device needs no memory, but not every model can be built there.
        image_size: The size of images to build it for; None for the model's own size.

    Raises:
        RefusedError: The model cannot be built, or has no choice of size.
    """
    try:
        with torch.device(device):
            return create_backbone(model, seed=0, device=device, image_size=image_size)
    except Exception as error:
        raise refused(error) from error


def build_for(
    model: str, *, image_size: int, device: torch.device, plain: Backbone | None = None
) -> Built:
    """Builds a model that takes images of a size: at its own size if it takes them there.

    Args:
        model: A timm model name.
        image_size: Height and width of the images.
        device: Where to build it.
        plain: The model at its own size, if it is built already.

    Raises:
        RefusedError: The model takes no images of this size; the message is that of the model at
            its own size.
    """
    plain = plain or build(model, device=device)
    try:
        run(plain, image_size=image_size, device=device)
    except RefusedError as refusal:
        try:
            resized = build(model, device=device, image_size=image_size)
            run(resized, image_size=image_size, device=device)
        except RefusedError:
            raise refusal from None
        return Built(backbone=resized, is_resized=True)
    return Built(backbone=plain, is_resized=False)


def run(backbone: Backbone, *, image_size: int, device: torch.device) -> None:
    """Computes the features of one image.

    Raises:
        RefusedError: The model fails, or gives something other than a vector of features.
    """
    inputs = torch.randn(1, 3, image_size, image_size, device=device)
    try:
        with torch.no_grad():
            features = backbone.model.eval()(inputs)
    except Exception as error:
        raise refused(error) from error
    check_features(features, num_images=1, backbone=backbone)


def check_features(features: object, *, num_images: int, backbone: Backbone) -> None:
    """Checks that a model gave one vector of finite features for each image.

    Raises:
        RefusedError: It did not.
    """
    expected = (num_images, backbone.num_features)
    if not isinstance(features, torch.Tensor):
        raise RefusedError(f"it returns a {type(features).__name__}, not a tensor of features")
    if tuple(features.shape) != expected:
        raise RefusedError(f"its features have shape {tuple(features.shape)}, not {expected}")
    if not features.is_meta and not torch.isfinite(features).all():
        raise RefusedError("its features are not finite")


def own_size(model: str) -> int:
    """Returns the size of images that a model is made for, in pixels."""
    config = config_of(model)
    return 224 if config is None else int(config.input_size[-1])


def config_of(model: str) -> PretrainedCfg | None:
    """Returns timm's record of a model's weights, also for a name that timm has replaced."""
    current = timm.models.get_deprecated_models().get(model) or model
    return timm.get_pretrained_cfg(current)


def refused(error: Exception) -> RefusedError:
    """Returns the message of an error in one short line."""
    text = " ".join(str(error).split()) or _last_line(error)
    return RefusedError(text if len(text) <= _MESSAGE_CHARS else f"{text[: _MESSAGE_CHARS - 3]}...")


def _last_line(error: Exception) -> str:
    """Returns the line of code that raised an error without a message, such as an assertion."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(str(_TORCH))  # its own assertions are calls
    ]
    line = frames[-1].line if frames else None
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
