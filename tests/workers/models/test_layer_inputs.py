from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn

from workers.models.layer_inputs import LayerInputs, add_gram

if TYPE_CHECKING:
    from collections.abc import Callable


def seen(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Returns the matrices of inputs by the names of the weights."""
    found: dict[str, Tensor] = {}

    def keep(name: str, inputs: Callable[[], Tensor]) -> None:
        found[name] = inputs()

    with torch.no_grad(), LayerInputs(module, on_inputs=keep):
        module(images)
    return found


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 1),
        nn.Conv2d(3, 5, 1, stride=2),
        nn.Conv2d(3, 5, 1, padding=1),
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(3, 5, (2, 3), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"),
        Conv2dSame(3, 5, 3, stride=2),
    ],
    ids=repr,
)
def test_a_convolution_is_a_matrix_on_its_patches(layer: nn.Conv2d) -> None:
    """The patches times the flattened kernel equal the layer's output for all geometries."""
    images = draw(2, 3, 7, 8)
    patches = seen(layer, images)["weight"]
    given = patches @ layer.weight.reshape(5, -1).T + layer.bias
    expected = layer(images).permute(0, 2, 3, 1).reshape(-1, 5)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


def test_a_linear_layer_has_one_row_per_position() -> None:
    """All dimensions before the last become rows."""
    inputs = draw(2, 3, 4)
    assert torch.equal(seen(nn.Linear(4, 2), inputs)["weight"], inputs.reshape(6, 4))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
    ],
    ids=["depthwise", "grouped", "padding by name"],
)
def test_layers_without_a_single_matrix_are_not_reported(layer: nn.Module) -> None:
    """Grouped kernels have several matrices, and padding by name has no number of pixels."""
    assert seen(layer, draw(1, 4, 6, 6)) == {}


def test_a_kernel_that_is_standardized_before_use_is_not_reported() -> None:
    """The applied kernel is another tensor than the model's weight."""
    assert seen(StdConv2d(4, 4, 3), draw(1, 4, 6, 6)) == {}


def test_nothing_is_reported_after_the_context() -> None:
    """Calls after the end of the context are not intercepted."""
    layer = nn.Linear(4, 2)
    found = []
    with LayerInputs(layer, on_inputs=lambda name, _: found.append(name)):
        layer(draw(1, 4))
    layer(draw(1, 4))
    assert found == ["weight"]


def test_gram_matrices_add_up_over_batches() -> None:
    """The sum over batches equals X^T X of all rows, in float64."""
    rows, sums = draw(10, 3), {}
    add_gram(sums, "w", rows[:4])
    add_gram(sums, "w", rows[4:])
    assert sums["w"].dtype == torch.float64
    torch.testing.assert_close(sums["w"].float(), rows.T @ rows)
