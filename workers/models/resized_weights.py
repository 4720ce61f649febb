"""Interpolates the weights of a model that takes only images of the size that it was built for."""

from collections.abc import Mapping

import timm
import torch
from torch import Tensor

from eval.counts import first_names
from workers.models.backbones import embedding_width
from workers.models.pretrained_weights import WeightsError
from workers.models.tied_weights import own_state, tied_names


def resize_weights(
    tensors: Mapping[str, Tensor], *, model: str, image_size: int
) -> dict[str, Tensor]:
    """Returns the weights of a model at its own size, interpolated by timm for another size.

    Positional embeddings and the like change; all other weights stay as they are.

    Args:
        tensors: All tensors of the backbone at the model's own size, each once.
        model: A timm model name.
        image_size: Height and width of the images, in pixels.

    Raises:
        WeightsError: timm cannot interpolate the weights of this model.
    """
    try:
        # timm loads strictly, and may change the mapping and the tensors that it is given.
        given = {name: each.clone() for name, each in _under_every_name(tensors, model).items()}
        module = timm.create_model(
            model,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": given},
            num_classes=embedding_width(model),
            img_size=image_size,
        )
    except Exception as error:
        # torch lists every tensor of a wrong shape, from the second line on.
        reason = (str(error).splitlines()[1:2] or [str(error)])[0].strip()
        raise WeightsError(
            f"timm cannot interpolate the weights of {model} to {image_size} pixels: {reason}"
        ) from error
    resized = own_state(module)
    lost = [
        name
        for name, tensor in tensors.items()
        if name in resized
        and tensor.shape == resized[name].shape
        and not torch.equal(tensor, resized[name])
    ]
    if lost:
        raise WeightsError(
            f"timm loses the weights {first_names(lost)} of {model} when it "
            f"interpolates them to {image_size} pixels"
        )
    return resized


def _under_every_name(tensors: Mapping[str, Tensor], model: str) -> dict[str, Tensor]:
    """Returns the tensors under all names that the model has for them."""
    with torch.device("meta"):
        module = timm.create_model(model, pretrained=False, num_classes=embedding_width(model))
    tied = {name: tensors[first] for name, first in tied_names(module).items()}
    return {**tensors, **tied}
