import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from workers.train.depthwise import depthwise_convolutions, fast_weight_gradients

STRIPS = "_StripConvolutionBackward"
"""The name of the gradient function of a convolution with gradients in strips."""


def layer(kernel: int | tuple[int, int], *, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """Returns a depthwise convolution of eight channels, with a bias."""
    return nn.Conv2d(8, 8, kernel, stride=stride, padding=padding, groups=8)


def gradients(layer: nn.Conv2d, inputs: Tensor, *, in_strips: bool) -> tuple[Tensor, ...]:
    """Returns the output and the gradients of the inputs, weights and bias of a random product."""
    inputs = inputs.clone(memory_format=torch.channels_last).requires_grad_()
    with fast_weight_gradients([layer] if in_strips else []):
        output = layer(inputs)
    assert output.grad_fn is not None
    assert (output.grad_fn.name() == STRIPS) is in_strips
    factors = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((output * factors).sum(), [inputs, *layer.parameters()])
    return (output.detach(), *found)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (layer(5, padding=2), (8, 8)),
        (layer(5, padding=2), (2, 3)),  # smaller than the weights
        (layer(5, stride=2, padding=2), (9, 8)),
        (layer(3, padding=1), (2, 2)),
        (layer(7, padding=3), (14, 14)),
        (layer(4, stride=3), (9, 11)),  # rows and columns that no output sees
        (layer((3, 6), padding=1), (7, 7)),
        (Conv2dSame(8, 8, 5, stride=2, groups=8), (16, 7)),  # pads by itself, and not evenly
    ],
)
def test_gradients_are_those_of_torch(layer: nn.Conv2d, size: tuple[int, int]) -> None:
    """Output and gradient of the inputs have the same bits."""
    torch.manual_seed(0)
    inputs = torch.randn(4, 8, *size)
    output, of_inputs, of_weight, of_bias = gradients(layer, inputs, in_strips=True)
    expected = gradients(layer, inputs, in_strips=False)
    assert torch.equal(output, expected[0])
    assert torch.equal(of_inputs, expected[1])
    for found, wanted in ((of_weight, expected[2]), (of_bias, expected[3])):
        rounding = 1e-5 * float(wanted.abs().max())
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=rounding)


@pytest.mark.parametrize(
    ("layer", "size"),
    [(layer(3, padding=1), (3, 3)), (layer(1), (4, 4)), (layer(5, padding="same"), (9, 9))],  # type: ignore[arg-type]
)
def test_torch_computes_what_it_is_fast_at(layer: nn.Conv2d, size: tuple[int, int]) -> None:
    """So it does for padding that is given by a word, which only torch resolves."""
    with fast_weight_gradients([layer]):
        output = layer(torch.randn(2, 8, *size))
    assert output.grad_fn is not None
    assert output.grad_fn.name() != STRIPS


def test_only_depthwise_convolutions_without_dilation_are_affected() -> None:
    """Grouped convolutions, and those with several filters per channel, are torch's."""
    wanted = layer(5)
    others = [
        nn.Conv2d(8, 8, 5),
        nn.Conv2d(8, 8, 5, groups=4),
        nn.Conv2d(8, 16, 5, groups=8),
        nn.Conv2d(8, 8, 5, groups=8, dilation=2),
        nn.Conv2d(1, 1, 5),
    ]
    assert depthwise_convolutions(nn.Sequential(wanted, *others)) == [wanted]


def test_layers_are_plain_after_the_block() -> None:
    """They can be differentiated twice again, also if the block ends with an error."""
    convolution = layer(5)
    with pytest.raises(ZeroDivisionError), fast_weight_gradients([convolution]):
        raise ZeroDivisionError
    assert "forward" not in vars(convolution)
    output = convolution(torch.randn(2, 8, 8, 8))
    (once,) = torch.autograd.grad(output.pow(2).sum(), convolution.weight, create_graph=True)
    (twice,) = torch.autograd.grad(once.sum(), convolution.weight)
    assert twice.abs().sum() > 0
