"""Lays a model out in memory: channels-last, except for layers that are not safe in it."""

from typing import Any

import torch
from torch import Tensor, nn

SAFE_CHANNELS = 16
"""Input channels from which strided 1 x 1 convolutions are safe: the width of a vector register.
With fewer, oneDNN writes past a buffer in the backward pass of images of 112 pixels or more."""


def lay_out(module: nn.Module, *, device: torch.device) -> nn.Module:
    """Moves a module to a device and makes it channels-last there.

    On CPUs, the layers of `unsafe_convolutions` keep torch's default layout and get their inputs in
    it. Their gradients are wrong otherwise, or the process crashes.
    """
    module = module.to(device).to(memory_format=torch.channels_last)
    if device.type == "cpu":
        for convolution in unsafe_convolutions(module):
            weight = convolution.weight
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)
            convolution.register_forward_pre_hook(_with_plain_inputs)
    return module


def unsafe_convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """Returns the layers of a module that oneDNN does not differentiate in channels-last layout."""
    return [
        each
        for each in module.modules()
        if isinstance(each, nn.Conv2d)
        and each.kernel_size == (1, 1)
        and max(each.stride) > 1
        and each.groups == 1
        and each.in_channels < SAFE_CHANNELS
    ]


def _with_plain_inputs(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.contiguous() if isinstance(each, Tensor) else each for each in inputs)
