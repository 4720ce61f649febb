"""Writes the models that merge_speed.py merges, and compares merged models."""

from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from workers.models.tensor_files import TensorFile

DEVIATION = 1e-3
"""Standard deviation of task vectors, about as large as fine-tuning makes them."""
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The files of one base and its experts."""

    title: str
    directory: Path
    base: Path
    experts: list[Path]

    @property
    def num_experts(self) -> int:
        """Number of experts."""
        return len(self.experts)


def write_inputs(model: str, *, num_experts: int, directory: Path) -> Inputs:
    """Writes a base with random float32 weights in a timm model's shapes, and experts around it.

    BatchNorm's counters are left out, because most of the peers' methods refuse integers.
    """
    torch.manual_seed(0)
    module = timm.create_model(model, num_classes=0)
    state = {name: each for name, each in module.state_dict().items() if each.is_floating_point()}
    num_bytes = sum(tensor.nbytes for tensor in state.values())
    base = directory / "base.safetensors"
    save_file(state, base)
    experts = [directory / f"expert_{index:02}.safetensors" for index in range(num_experts)]
    for path in experts:
        save_file({name: _tuned(each, name=name) for name, each in state.items()}, path)
    title = f"{model} ({num_bytes / 1e6:.0f} MB), {num_experts}"
    return Inputs(title=title, directory=directory, base=base, experts=experts)


def _tuned(tensor: Tensor, *, name: str) -> Tensor:
    noise = DEVIATION * torch.randn(tensor.shape)
    return tensor + (noise.abs() if name.endswith("running_var") else noise)


def compare(ours: Path, theirs: Path) -> str:
    """Returns the largest difference between two files' weights and the number of unequal entries.

    An entry differs if the difference is larger than rounding errors of task vectors explain.
    """
    largest, num_different, num_entries = 0.0, 0, 0
    left, right = TensorFile(ours), TensorFile(theirs)
    for name in left:
        if not name.endswith(_STATISTICS):
            gap = (left[name] - right[name]).abs()
            largest = max(largest, float(gap.max()))
            num_different += int((gap > DEVIATION / 100).sum())
            num_entries += gap.numel()
    return f"at most {largest:.1e}; {num_different} of {num_entries} entries"
