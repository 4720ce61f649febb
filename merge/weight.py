"""One tensor of the base and of every expert, read on demand: the unit that methods work on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from merge.errors import NonFiniteInputError

State = Mapping[str, Tensor]
"""A state dict, or a lazy view of one in a memory-mapped file."""

BLOCK_ENTRIES = 1 << 18
"""1 MB of float32: a few arrays of it stay in a core's cache, and Python's share stays small."""
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Weight:
    """Names one tensor, or a span of it, across all models and holds none: a list costs nothing.

    Every read gives float32 whatever the stored dtype, detached, on the device, and raises
    `NonFiniteInputError` on NaN or inf. A float32 tensor is not copied: what is read must not be
    changed in place.
    """

    name: str
    base_state: State
    expert_states: Sequence[State]
    span: slice | None = None
    """Entries of the flattened tensor; None for the tensor itself, in its shape."""
    device: torch.device = CPU
    """Where reads go and methods compute."""
    is_checked: bool = True
    """Whether NaN and inf are looked for; a second pass over what was checked need not."""

    @property
    def num_experts(self) -> int:
        """Number of experts."""
        return len(self.expert_states)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The stored dtype, which the merged tensor will have."""
        return self.base_state[self.name].dtype

    @cached_property
    def shape(self) -> torch.Size:
        """The shape of what is read."""
        if self.span is not None:
            return torch.Size([len(range(self.span.start, self.span.stop, self.span.step or 1))])
        return self.base_state[self.name].shape

    @property
    def num_entries(self) -> int:
        """Number of entries of what is read."""
        return self.shape.numel()

    def base(self) -> Tensor:
        """Returns the base's tensor."""
        return self._read(self.base_state, owner="the base")

    def expert(self, index: int) -> Tensor:
        """Returns one expert's tensor."""
        return self._read(self.expert_states[index], owner=f"expert {index}")

    def experts(self) -> Iterator[Tensor]:
        """Yields every expert's tensor, one alive at a time."""
        return (self.expert(index) for index in range(self.num_experts))

    def scratch(self) -> Tensor:
        """Returns a float32 tensor of the shape, not initialized, to compute in."""
        return torch.empty(self.shape, device=self.device)

    def task_vector(self, index: int, out: Tensor | None = None) -> Tensor:
        """Returns one expert's tensor minus the base's.

        Args:
            index: The expert.
            out: Takes the result, in place of a new tensor. Memory that is given back and taken
                anew for every block costs as much as the arithmetic, in page faults.
        """
        expert, base = self._load(self.expert_states[index]), self._load(self.base_state)
        vector = torch.sub(expert, base, out=out)
        if self.is_checked and not is_finite(vector):
            self.base()  # whichever of the two is not finite is named
            self.expert(index)
        return vector

    def task_vectors(self) -> Iterator[Tensor]:
        """Yields every expert's task vector, one alive at a time."""
        return (self.task_vector(index) for index in range(self.num_experts))

    def sum_of_experts(self) -> Tensor:
        """Returns the sum of the experts' tensors, added from first to last."""
        return self.checked_sum(self._load(state) for state in self.expert_states)

    def sum_of_task_vectors(self) -> Tensor:
        """Returns the sum of the task vectors, added from first to last."""
        unchecked, place = self.unchecked(), self.scratch()
        return self.checked_sum(
            unchecked.task_vector(index, place) for index in range(self.num_experts)
        )

    def checked_sum(self, tensors: Iterator[Tensor]) -> Tensor:
        """Returns the sum of what was made of unchecked reads; may be given in one place.

        NaN and inf in a tensor of the base or of an expert are looked for where the sum is not
        finite: whatever was read shows there.
        """
        result = total(tensors)
        self.check_sum(result)
        return result

    def check_sum(self, sum_: Tensor) -> None:
        """Looks for NaN and inf in what a sum was made of, where it is not finite itself."""
        if not is_finite(sum_):
            self.base()
            for _ in self.experts():  # the first that is not finite is named
                pass

    @cached_property
    def blocks(self) -> Sequence[Weight]:
        """The tensor in spans of `BLOCK_ENTRIES` or fewer, first to last.

        Whoever treats entries alike works on blocks: temporaries stay in cache, and peak memory
        does not follow the largest tensor.
        """
        starts = range(0, self.num_entries, BLOCK_ENTRIES)
        stops = (min(start + BLOCK_ENTRIES, self.num_entries) for start in starts)
        spans = map(slice, starts, stops)
        return [replace(self, span=span) for span in spans]

    def of_experts(self, indices: Sequence[int]) -> Weight:
        """Returns the same weight with some of the experts only, in the order given."""
        return replace(self, expert_states=[self.expert_states[index] for index in indices])

    def every_nth(self, step: int) -> Weight:
        """Returns every `step`-th entry of the flattened tensor, from the first on, unchecked."""
        return replace(self, span=slice(0, self.num_entries, step), is_checked=False)

    def unchecked(self) -> Weight:
        """Returns the same weight without looking for NaN and inf."""
        return self._unchecked

    @cached_property
    def _unchecked(self) -> Weight:
        return replace(self, is_checked=False)

    def _read(self, state: State, *, owner: str) -> Tensor:
        tensor = self._load(state)
        if self.is_checked and not is_finite(tensor):
            raise NonFiniteInputError(f"{self.name} of {owner} holds NaN or inf")
        return tensor

    def _load(self, state: State) -> Tensor:
        tensor = state[self.name]
        if tensor.requires_grad:
            tensor = tensor.detach()
        if self.span is not None:
            tensor = tensor.reshape(-1)[self.span]
        if self.device.type == "cuda":
            # Pinned memory is copied while the next block is read; torch's own pool hands a buffer
            # out again only when its copy has ended.
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor if tensor.dtype == torch.float32 else tensor.to(torch.float32)


def by_block(weight: Weight, function: Callable[[Weight], Tensor]) -> Tensor:
    """Returns a tensor made block by block, by a function that treats all entries alike.

    Args:
        weight: A whole tensor.
        function: Gives a block's result, of the block's shape.

    Shapes: that of the weight.
    """
    if weight.num_entries <= BLOCK_ENTRIES:  # of most tensors the one block is the result
        return function(replace(weight, span=slice(0, weight.num_entries))).view(weight.shape)
    made = torch.empty(weight.num_entries, device=weight.device)
    for block in weight.blocks:
        made[block.span] = function(block)
    return made.view(weight.shape)


def is_finite(tensor: Tensor) -> bool:
    """Returns whether no entry is NaN or inf.

    The extremes carry NaN and inf along and cost a sixteenth of an entrywise test (0.9 against 14
    ms for 3.4 M entries on one core), which counts because TIES reads everything three times.
    """
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return math.isfinite(float(low)) and math.isfinite(float(high))


def total(tensors: Iterator[Tensor]) -> Tensor:
    """Returns the sum, added from first to last.

    A reduction over a stacked dimension may add in another order on another vector width; this
    order is the caller's, and so are the bits. Another order of experts changes the last bits only.
    """
    result = next(tensors).clone()
    for tensor in tensors:
        result += tensor
    return result
