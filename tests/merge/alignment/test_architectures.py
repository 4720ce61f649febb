from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest
import timm
import torch

from merge.alignment.architectures import specification_of
from merge.errors import UnalignableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from merge.weight import State


def groups_of(state: State, name: str) -> list[tuple[int, str]]:
    return [(axis.dim, axis.group) for axis in specification_of(state).axes[name]]


def refusal(state: State) -> str:
    with pytest.raises(UnalignableError) as raised:
        specification_of(state)
    return str(raised.value)


def test_permuted_networks_are_the_same_function(
    network: nn.Module, shuffled: Callable[[State, int], State]
) -> None:
    """With every group shuffled most weights move, and outputs differ only by rounding."""
    size = 32 if hasattr(network, "blocks") else 64
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    original = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        expected = network(images)
        moved = dict(shuffled(original, 0))
        network.load_state_dict(moved)
        found = network(images)
    assert sum(not torch.equal(moved[name], original[name]) for name in moved) > len(moved) / 3
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_an_identity_shortcut_shares_the_stream() -> None:
    """Up to the first projection all blocks use the stem's order of channels."""
    state = state_without_values("resnet18")
    assert groups_of(state, "conv1.weight") == [(0, "stem")]
    assert groups_of(state, "layer1.1.conv2.weight") == [(0, "stem"), (1, "layer1.1.conv1")]
    assert groups_of(state, "layer2.0.conv1.weight") == [(0, "layer2.0.conv1"), (1, "stem")]
    assert groups_of(state, "layer2.0.downsample.0.weight") == [(0, "layer2.0"), (1, "stem")]


def test_a_bottleneck_has_two_inner_groups() -> None:
    """The first stage already has a projection, from the stem's 64 channels to 256."""
    state = state_without_values("resnet50")
    specification = specification_of(state)
    assert groups_of(state, "layer1.0.conv2.weight") == [
        (0, "layer1.0.conv2"),
        (1, "layer1.0.conv1"),
    ]
    assert groups_of(state, "layer1.1.conv3.weight") == [(0, "layer1.0"), (1, "layer1.1.conv2")]
    assert specification.sizes["stem"] == 64
    assert specification.sizes["layer1.0"] == 256


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_channels_that_the_head_reads_do_not_move(model: str) -> None:
    """The last stream keeps its order in all blocks of the last stage."""
    state = state_without_values(model)
    last = "conv3" if model == "resnet50" else "conv2"
    assert groups_of(state, f"layer4.1.{last.replace('conv', 'bn')}.running_var") == []
    assert [dim for dim, _ in groups_of(state, f"layer4.1.{last}.weight")] == [1]
    assert [dim for dim, _ in groups_of(state, "layer4.0.downsample.0.weight")] == [1]


def test_a_vit_moves_hidden_units_and_whole_heads() -> None:
    """A ViT-Ti has 3 heads of 64 and 768 hidden units in each block; nothing else moves."""
    state = state_without_values("vit_tiny_patch16_224", depth=1)
    specification = specification_of(state)
    assert specification.sizes == {"blocks.0.attn": 3, "blocks.0.mlp": 768}
    assert {name for name, axes in specification.axes.items() if axes} == {
        *("blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias", "blocks.0.attn.proj.weight"),
        *("blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.bias", "blocks.0.mlp.fc2.weight"),
    }


def test_an_unknown_architecture_is_named_by_its_first_tensors() -> None:
    """The message has the first five names and the number of the others."""
    state = {f"stages.{index}.weight": torch.zeros(1) for index in range(7)}
    assert refusal(state) == (
        "the channels of the model cannot be matched: the tensors are those of neither a timm "
        "ResNet nor a timm ViT: stages.0.weight; stages.1.weight; stages.2.weight; "
        "stages.3.weight; stages.4.weight; and 2 more"
    )


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("seresnet18", "layer1.0.se.fc1.weight is unknown"),
        ("resnet50_gn", "bn1.running_mean is missing"),
        ("resnext50_32x4d", r"layer1.0.conv2.weight[128, 4, 3, 3]"),
        ("beit_base_patch16_224", "blocks.0.gamma_1 is unknown"),
        (
            "vit_giant_patch14_clip_224",
            "is this wide or has no cls_token: blocks.0.attn.qkv.weight[4224, 1408]",
        ),
        (
            "vit_base_patch16_gap_224",
            "the size of attention heads must be given (`merge --head-dim`)",
        ),
    ],
)
def test_relatives_are_refused_with_the_reason(model: str, reason: str) -> None:
    """Channel attention, group normalization, grouped convolutions and unknown scales differ."""
    assert reason in refusal(state_without_values(model))


def test_a_gated_mlp_is_refused() -> None:
    """Its first layer has hidden units and gates, twice as many as the second layer reads."""
    with pytest.raises(UnalignableError, match=r"blocks\.0\.mlp\.fc2\.weight\[1536, 4096\]"):
        specification_of(state_without_values("vit_giant_patch14_dinov2"), head_dim=64)


def test_a_head_is_refused() -> None:
    """A head in the state would be merged, although each task has its own."""
    state = {**state_without_values("resnet18"), "fc.weight": torch.zeros(10, 512)}
    assert "without its head: fc.weight is unknown" in refusal(state)


def test_the_size_of_wide_heads_may_be_given() -> None:
    """The 1408 entries of a giant ViT are 16 heads of 88."""
    state = state_without_values("vit_giant_patch14_clip_224")
    assert specification_of(state, head_dim=88).sizes["blocks.0.attn"] == 16


def test_a_refusal_survives_a_process_boundary() -> None:
    """An error raised in a worker keeps its causes."""
    error = UnalignableError("this is none", ["a is unknown"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def state_without_values(model: str, **kwargs: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        module = timm.create_model(model, num_classes=0, **kwargs)
    return dict(module.state_dict())
