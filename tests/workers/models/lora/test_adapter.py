import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from workers.models.lora.adapter import Adapter, exactly


@given(
    rank=st.integers(1, 5),
    alpha=st.floats(0.125, 64),
    kernel=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 2**31),
)
def test_dense_weights_compute_what_layer_and_adapter_compute(
    rank: int, alpha: float, kernel: int | None, seed: int
) -> None:
    """W x + alpha / rank B (A x) is computed here by torch's own layers, one after the other."""
    torch.manual_seed(seed)
    layer: nn.Linear | nn.Conv2d
    if kernel is None:
        layer, down, up = nn.Linear(6, 4), nn.Linear(6, rank, bias=False), nn.Linear(rank, 4)
        inputs = torch.randn(3, 6)
    else:
        layer = nn.Conv2d(6, 4, kernel, stride=2, padding=kernel // 2)
        down = nn.Conv2d(6, rank, kernel, stride=2, padding=kernel // 2, bias=False)  # type: ignore[assignment]
        up = nn.Conv2d(rank, 4, 1)  # type: ignore[assignment]
        inputs = torch.randn(3, 6, 5, 5)
    nn.init.zeros_(up.bias)
    adapter = Adapter(rank=rank, alpha=alpha, layers={"0": (down.weight, up.weight)})
    expected = layer(inputs) + alpha / rank * up(down(inputs))
    module = nn.Sequential(layer)
    base = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.load_state_dict(adapter.merged(base))
    torch.testing.assert_close(module(inputs), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("rank", "kernel"), [(1, 1), (2, 3)])
def test_change_has_at_most_the_rank_and_touches_its_layers_only(rank: int, kernel: int) -> None:
    """All other tensors of the base keep their bits."""
    torch.manual_seed(0)
    base = {"a.weight": torch.randn(8, 9, kernel, kernel), "a.bias": torch.randn(8)}
    pair = (torch.randn(rank, 9, kernel, kernel), torch.randn(8, rank, 1, 1))
    merged = Adapter(rank=rank, alpha=2.0, layers={"a": pair}).merged(base)
    change = (merged["a.weight"] - base["a.weight"]).flatten(1).double()
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == rank
    assert torch.equal(merged["a.bias"], base["a.bias"])


def test_adapter_of_zeros_is_the_base() -> None:
    """An adapter begins with B = 0, and leaves the base's bits alone."""
    base = {"a.weight": torch.randn(4, 5)}
    pair = (torch.randn(2, 5), torch.zeros(4, 2))
    merged = Adapter(rank=2, alpha=4.0, layers={"a": pair}).merged(base)
    assert torch.equal(merged["a.weight"], base["a.weight"])


def test_pattern_matches_exactly_the_layers() -> None:
    """Peft matches the whole name; a dot is a dot, and no name matches by its end."""
    pattern = exactly(["head", "blocks.0.attn"])
    names = ["head", "blocks.0.attn", "x.head", "blocks.0.attn.proj", "blocks_0.attn"]
    assert [name for name in names if re.fullmatch(pattern, name)] == names[:2]


def test_configuration_has_rank_alpha_and_layers() -> None:
    """These are the values that other tools read."""
    pair = (torch.randn(2, 5), torch.zeros(4, 2))
    config = json.loads(Adapter(rank=2, alpha=3.0, layers={"a.b": pair}).config_json())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 3.0)
    assert (config["target_modules"], config["bias"]) == (r"a\.b", "none")
