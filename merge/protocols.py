"""The functions that make up a method, as protocols, and the recipe that they receive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from merge.parameters.method_params import MethodParams

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from merge.deferred import DeferredEntries
    from merge.probe import Probe
    from merge.weight import Weight

P = TypeVar("P", bound=MethodParams)
S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[P, S]):
    """Everything that a method may know besides the weights."""

    params: P
    """The method's parameters."""
    seed: int
    """Seed of all randomness; deterministic methods ignore it."""
    expert_results: Sequence[Any] = ()
    """The results of `Method.measure_expert`, one per expert."""
    group_result: S
    """The result of `Method.measure_group` or `Method.learn`; None if the method has neither."""
    may_defer: bool = False
    """Whether entries may be left to `Method.deferred_entries`."""


class Combine(Protocol):
    """The function that merges one tensor, the only function of most methods."""

    def __call__(self, weight: Weight, *, recipe: Recipe[Any, Any]) -> Tensor:
        """Returns the merged tensor as a new float32 tensor; reads no tensor but `weight`."""


class MeasureExpert(Protocol):
    """A function that measures one expert over all tensors, for every group that it is in."""

    def __call__(
        self, weights: Sequence[Weight], index: int, *, recipe: Recipe[Any, None]
    ) -> object:
        """Returns the entry of `Recipe.expert_results` for the expert at `index`."""


class MeasureGroup(Protocol):
    """A function that measures a group by reading its tensors one after another."""

    def __call__(self, weights: Sequence[Weight], *, recipe: Recipe[Any, None]) -> object:
        """Returns the `Recipe.group_result` for the merge of every tensor."""


class Learn(Protocol):
    """A function that learns from data through a probe, which can run the model."""

    def __call__(
        self, weights: Sequence[Weight], *, recipe: Recipe[Any, None], probe: Probe
    ) -> object:
        """Returns the `Recipe.group_result` for the merge of every tensor."""


class CombineForTask(Protocol):
    """A function that merges one tensor of the model for one task, known at test time."""

    def __call__(self, weight: Weight, task: int, *, recipe: Recipe[Any, Any]) -> Tensor:
        """Returns a new float32 tensor for the task of the expert at position `task`."""


class DeferredEntriesOf(Protocol):
    """A function that yields the entries left until every tensor has been merged."""

    def __call__(self, *, recipe: Recipe[Any, Any]) -> Iterator[DeferredEntries]:
        """Yields the entries, tensor by tensor."""


class Covers(Protocol):
    """A function that tells on which tensors a method does more than average."""

    def __call__(self, weight: Weight) -> bool:
        """Returns whether the method does more than average this tensor; reads no entries."""


def covers_all(weight: Weight) -> bool:
    """Returns True, for methods that treat every weight alike."""
    del weight
    return True


@dataclass(frozen=True, kw_only=True)
class Method:
    """The functions of one method."""

    combine: Combine
    """Merges one tensor."""
    measure_expert: MeasureExpert | None = None
    """Measures one expert, once for all groups; None if the method needs no such pass."""
    measure_group: MeasureGroup | None = None
    """Measures a group before its first tensor is merged; None if the method needs no such pass."""
    learn: Learn | None = None
    """Learns from data, in place of `measure_group`; None if the method reads weights alone."""
    combine_for_task: CombineForTask | None = None
    """For methods that keep modules of each task. `combine` then makes the model without them."""
    deferred_entries: DeferredEntriesOf | None = None
    """For methods that are faster if some entries may wait; None if no entry ever waits."""
    covers: Covers = covers_all
    """Whether the method does more than average a tensor."""
