"""The inputs of a model's linear and convolutional layers as matrices, for Gram matrices."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

OnInputs = Callable[[str, Callable[[], Tensor]], None]
"""Called with the name of a weight and a function that returns the matrix of its inputs."""


class LayerInputs(TorchFunctionMode):
    """A context that reports the inputs of every weight matrix and kernel that a model applies.

    It intercepts calls of torch functions, not of layers. At that point, a layer has already
    changed its input, for example padded it. A kernel that a layer standardizes before use is not a
    weight of the model, and is not reported.
    """

    def __init__(self, module: nn.Module, *, on_inputs: OnInputs) -> None:
        super().__init__()
        self._names = {id(weight): name for name, weight in module.named_parameters()}
        self._on_inputs = on_inputs

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 torch leaves it open
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Reports the inputs of a linear map or convolution, and then calls the function."""
        kwargs = kwargs or {}
        if func is functional.linear:
            self._report_linear(*args, **kwargs)
        elif func is functional.conv2d:
            self._report_convolution(*args, **kwargs)
        return func(*args, **kwargs)

    def _report_linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        del bias
        if id(weight) in self._names:
            self._on_inputs(self._names[id(weight)], lambda: inputs.reshape(-1, inputs.shape[-1]))

    def _report_convolution(  # noqa: PLR0917 the order is torch's
        self,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> None:
        del bias
        if groups != 1 or isinstance(padding, str) or id(weight) not in self._names:
            return
        self._on_inputs(
            self._names[id(weight)],
            lambda: patches(
                inputs,
                size=weight.shape[2:],
                stride=_pair(stride),
                padding=_pair(padding),
                dilation=_pair(dilation),
            ),
        )


def patches(
    inputs: Tensor,
    *,
    size: Sequence[int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Returns the patches that a kernel is applied to, one per row.

    Shapes:
        inputs: (batch, channels, height, width).
        returns: (batch x positions, channels x kernel height x kernel width), with columns in the
            order of a flattened kernel.
    """
    if tuple(size) == (1, 1) and padding == (0, 0):
        strided = inputs[:, :, :: stride[0], :: stride[1]]
        return strided.permute(0, 2, 3, 1).reshape(-1, inputs.shape[1])
    columns = functional.unfold(
        inputs, tuple(size), dilation=dilation, padding=padding, stride=stride
    )
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def add_gram(sums: dict[str, Tensor], name: str, inputs: Tensor) -> None:
    """Adds the Gram matrix of a batch of inputs to the sum of a weight, in place.

    The product of a batch is in float32. The sum over batches is in float64, because RegMean
    inverts it.

    Shapes:
        inputs: (rows, width). sums: (width, width), float64.
    """
    rows = inputs.float()
    gram = (rows.T @ rows).to(torch.float64)
    if name in sums:
        sums[name] += gram
    else:
        sums[name] = gram


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return (value, value)
    first, last = (*value, *value)[:2]
    return (first, last)
