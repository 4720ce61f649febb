"""Computes the weight gradients of depthwise convolutions quickly on CPUs.

oneDNN's fast kernel for them takes weights of at most three columns, and images that are no smaller
than the weights before padding. Everything else goes to a loop: for EfficientNet-Lite0 at 64 pixels
a quarter of the time of a training step. Here such images are padded first, and the gradient is
computed in strips of three columns. It is the same up to rounding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

STRIP_WIDTH = 3
"""Columns of the widest weights that oneDNN has a fast kernel for."""
_NUM_ARGUMENTS = 7
"""Arguments of `conv2d`, as the layers of torch and timm pass them, by position."""


def depthwise_convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """Returns the convolutions of a module that have one filter per channel and no dilation."""
    return [
        each
        for each in module.modules()
        if isinstance(each, nn.Conv2d)
        and 1 < each.groups == each.in_channels == each.out_channels
        and each.dilation == (1, 1)
    ]


@contextmanager
def fast_weight_gradients(convolutions: Sequence[nn.Conv2d]) -> Iterator[None]:
    """Makes depthwise convolutions compute their weight gradients in strips where that is faster.

    Outputs that are computed in the `with` block are affected, wherever they are differentiated.
    They can be differentiated once, and not in forward mode.

    Args:
        convolutions: Layers on a CPU, as `depthwise_convolutions` returns them.
    """
    for each in convolutions:
        each.forward = _in_strips(each.forward)  # type: ignore[assignment]
    try:
        yield
    finally:
        for each in convolutions:
            del each.forward  # the class's own is found again


def _in_strips(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward_in_strips(inputs: Tensor) -> Tensor:
        with _ConvolutionsInStrips():
            return forward(inputs)

    return forward_in_strips


class _ConvolutionsInStrips(TorchFunctionMode):
    """Replaces the one convolution of a layer, after whatever padding the layer does itself."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 whatever `func` returns
        del types
        if func is functional.conv2d and len(args) == _NUM_ARGUMENTS:
            inputs, weight, bias, stride, padding, _, _ = args
            if _is_slow(inputs, weight) and not isinstance(padding, str):
                return _StripConvolution.apply(inputs, weight, bias, _Steps(stride, padding))
        return func(*args, **(kwargs or {}))


def _is_slow(inputs: Tensor, weight: Tensor) -> bool:
    height, width = weight.shape[-2:]
    return width > STRIP_WIDTH or inputs.shape[-2] < height or inputs.shape[-1] < width


class _Steps(NamedTuple):
    """The stride and the padding of a convolution, as rows and columns."""

    stride: tuple[int, int]
    padding: tuple[int, int]


class _StripConvolution(torch.autograd.Function):
    """A depthwise convolution whose weight gradient is computed in strips."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 torch's context takes any attribute
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        steps: _Steps,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.steps = steps
        return functional.conv2d(
            inputs, weight, bias, steps.stride, steps.padding, groups=len(weight)
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight = ctx.saved_tensors
        needs_inputs, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            _gradient(gradient, inputs, weight, steps=ctx.steps, of=0) if needs_inputs else None,
            _weight_gradient(gradient, inputs, weight, steps=ctx.steps) if needs_weight else None,
            gradient.sum(dim=(0, 2, 3)) if needs_bias else None,
            None,
        )


def _weight_gradient(gradient: Tensor, inputs: Tensor, weight: Tensor, *, steps: _Steps) -> Tensor:
    """Returns the gradient of the weights, strip by strip.

    The last strip overlaps the one before if the width is no multiple of the strip's.

    Shapes:
        gradient: (batch, channels, rows of the output, columns of the output).
        inputs: (batch, channels, rows, columns).
        weight, returns: (channels, 1, height, width).
    """
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    (rows, columns), (_, stride) = steps.padding, steps.stride
    inputs = functional.pad(inputs, (columns, columns, rows, rows))
    width = weight.shape[-1]
    strip_width = min(width, STRIP_WIDTH)
    strip = weight.new_empty(*weight.shape[:-1], strip_width)
    num_columns = (gradient.shape[-1] - 1) * stride + strip_width
    whole = torch.empty_like(weight)
    for begin in range(0, width, strip_width):
        first = min(begin, width - strip_width)
        seen = inputs[..., first : first + num_columns]
        whole[..., first : first + strip_width] = _gradient(
            gradient,
            seen.contiguous(memory_format=torch.channels_last),
            strip,
            steps=steps._replace(padding=(0, 0)),
            of=1,
        )
    return whole


def _gradient(
    gradient: Tensor, inputs: Tensor, weight: Tensor, *, steps: _Steps, of: Literal[0, 1]
) -> Tensor:
    """Returns torch's own gradient of the inputs (0) or the weights (1)."""
    num_channels = len(weight)
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient,
        inputs,
        weight,
        bias_sizes=None,
        stride=steps.stride,
        padding=steps.padding,
        dilation=(1, 1),
        transposed=False,
        output_padding=(0, 0),
        groups=num_channels,
        output_mask=(of == 0, of == 1, False),
    )
    return found[of]
