from pathlib import Path

import pytest
import torch
from torch import nn

from merge.catalogue import parse_params
from merge.merge import MergeOptions, merge
from workers.models.backbones import create_backbone
from workers.models.resized_weights import resize_weights
from workers.models.tensor_files import TensorFile, write_tensors
from workers.models.tied_weights import load_state, own_state, tied_names

COAT = "coat_lite_tiny"
ONCE, AGAIN = "cpe1.proj.weight", "serial_blocks1.1.cpe.proj.weight"


class Tied(nn.Module):
    """A model with two layers that share a weight, and two names of one BatchNorm layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = self.again = nn.BatchNorm1d(3)


def test_shared_tensors_are_listed_once_under_their_first_names() -> None:
    """Parameters and buffers alike; the tensors are the module's own."""
    module = Tied()
    state = own_state(module)
    assert list(state) == [
        *("first.weight", "first.bias", "second.bias"),
        *("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"),
        "norm.num_batches_tracked",
    ]
    assert tied_names(module)["second.weight"] == "first.weight"
    assert tied_names(module)["again.running_var"] == "norm.running_var"
    state["first.weight"].zero_()
    assert not module.second.weight.any()
    assert tied_names(nn.Linear(2, 2)) == {}


def test_state_is_loaded_strictly() -> None:
    """A missing or an unknown tensor is an error, also if it is a shared one."""
    state = own_state(Tied())
    module = Tied()
    load_state(module, state)
    assert all(torch.equal(each, state[name]) for name, each in own_state(module).items())
    assert module.second.weight is module.first.weight
    for wrong in (
        {name: each for name, each in state.items() if name != "first.weight"},
        {**state, "third.weight": torch.ones(3)},
    ):
        with pytest.raises(RuntimeError, match=r"first\.weight|third\.weight"):
            load_state(module, wrong)


def test_model_with_shared_tensors_is_stored_and_merged_with_itself(tmp_path: Path) -> None:
    """Every bit comes back, and a method with a mask draws one for all uses of a tensor."""
    module = create_backbone(COAT, seed=0, device=torch.device("cpu")).module
    state = own_state(module)
    assert ONCE in state
    assert AGAIN not in state
    write_tensors(tmp_path / "x.safetensors", state, about={})
    stored = TensorFile(tmp_path / "x.safetensors")
    options = MergeOptions(params=parse_params("average", {}))
    merged = dict(merge(stored, [stored, stored], options=options))
    other = create_backbone(COAT, seed=1, device=torch.device("cpu")).module
    load_state(other, merged)
    assert all(torch.equal(each, state[name]) for name, each in own_state(other).items())
    assert torch.equal(other.state_dict()[AGAIN], state[ONCE])


def test_weights_with_shared_tensors_are_resized() -> None:
    """Timm asks for every name of a tensor."""
    module = create_backbone(COAT, seed=0, device=torch.device("cpu")).module
    state = own_state(module)
    resized = resize_weights(state, model=COAT, image_size=32)
    assert resized.keys() == state.keys()
    assert torch.equal(resized[ONCE], state[ONCE])
