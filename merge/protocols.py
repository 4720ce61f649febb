"""What a method is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from merge.parameters.method_params import MethodParams

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from merge.late import LateEntries
    from merge.probe import Probe
    from merge.weight import Weight

P = TypeVar("P", bound=MethodParams)
S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[P, S]):
    """Holds all that a method may know besides the weights."""

    params: P
    """The method's parameters."""
    seed: int
    """Seed of all randomness; methods without any leave it alone."""
    measured: Sequence[Any] = ()
    """What `Method.measure_expert` found, by expert."""
    statistics: S
    """What the extra pass measured on all models; None if the method has no such pass."""
    settles_late: bool = False
    """Whether entries may be left to `Method.settle`."""


class Combine(Protocol):
    """Merges one tensor; the whole of what a method must provide."""

    def __call__(self, weight: Weight, *, recipe: Recipe[Any, Any]) -> Tensor:
        """Returns the merged tensor in float32, a new one; reads no other tensor than `weight`."""


class MeasureExpert(Protocol):
    """Measures one expert over all tensors: the same for every group that it is in."""

    def __call__(
        self, weights: Sequence[Weight], index: int, *, recipe: Recipe[Any, None]
    ) -> object:
        """Returns what `Recipe.measured` holds for the expert at `index`."""


class Measure(Protocol):
    """Measures what tensor-local merging cannot see, by reading the tensors one after another."""

    def __call__(self, weights: Sequence[Weight], *, recipe: Recipe[Any, None]) -> object:
        """Returns the statistics that `Recipe.statistics` carries to every tensor."""


class Learn(Protocol):
    """Learns from data what tensor-local merging needs, with the model itself at hand."""

    def __call__(
        self, weights: Sequence[Weight], *, recipe: Recipe[Any, None], probe: Probe
    ) -> object:
        """Returns the statistics that `Recipe.statistics` carries to every tensor."""


class CombineForTask(Protocol):
    """Merges one tensor for one task of the group, whose identity is known at test time."""

    def __call__(self, weight: Weight, task: int, *, recipe: Recipe[Any, Any]) -> Tensor:
        """Returns the tensor in float32, a new one, for the task of the expert at `task`."""


class Settle(Protocol):
    """Gives the entries that were left until every tensor was merged."""

    def __call__(self, *, recipe: Recipe[Any, Any]) -> Iterator[LateEntries]:
        """Yields them, tensor by tensor."""


class Covers(Protocol):
    """Tells on which tensors a method is more than an average."""

    def __call__(self, weight: Weight) -> bool:
        """Returns whether it is on this one; reads no entries."""


def covers_all(weight: Weight) -> bool:
    """Returns true: the method treats every weight alike."""
    del weight
    return True


@dataclass(frozen=True, kw_only=True)
class Method:
    """One line of the table of methods."""

    params: type[MethodParams]
    """Its parameters' class."""
    combine: Combine
    """Its tensor-local function."""
    measure_expert: MeasureExpert | None = None
    """Its pass over one expert, shared by all groups; None if it needs none."""
    statistics: Measure | None = None
    """Its pass over a group before the first tensor is merged; None if it needs none."""
    learn: Learn | None = None
    """Its pass over data, in place of `statistics`; None if it reads weights alone."""
    combine_for_task: CombineForTask | None = None
    """For methods that keep modules of each task; `combine` is then the model without them."""
    settle: Settle | None = None
    """For methods that are faster if some entries may wait; None if none ever does."""
    covers: Covers = covers_all
    """Where it is more than an average."""
