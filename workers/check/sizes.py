"""Measures the sizes of a model."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from workers.models.backbones import Backbone
from workers.models.model_sizes import ModelSize
from workers.models.tied_weights import own_state


def measured(backbone: Backbone, *, image_size: int) -> ModelSize:
    """Returns the size of a backbone; its operations are counted on torch's meta device only.

    Args:
        backbone: The backbone; it is in evaluation mode afterwards.
        image_size: Height and width of the image whose operations are counted.
    """
    parameters = list(backbone.module.parameters())
    return ModelSize(
        num_parameters=sum(each.numel() for each in parameters),
        parameter_bytes=sum(each.nbytes for each in parameters),
        state_bytes=sum(each.nbytes for each in own_state(backbone.module).values()),
        num_features=backbone.num_features,
        flops_per_pixel=_flops_per_pixel(backbone, image_size=image_size),
    )


def _flops_per_pixel(backbone: Backbone, *, image_size: int) -> float | None:
    inputs = torch.empty(1, 3, image_size, image_size, device="meta")
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            backbone.module.eval()(inputs)
    except Exception:  # noqa: BLE001 models fail on the meta device in various ways
        return None
    return float(counter.get_total_flops() / image_size**2)
