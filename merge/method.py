"""What a method is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from merge.params import MethodParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

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
    statistics: S
    """What the extra pass measured on all models; None if the method has no such pass."""


class Combine(Protocol):
    """Merges one tensor; the whole of what a method must provide."""

    def __call__(self, weight: Weight, *, recipe: Recipe[Any, Any]) -> Tensor:
        """Returns the merged tensor in float32, a new one; reads no other tensor than `weight`."""


class Measure(Protocol):
    """Measures what tensor-local merging cannot see, by reading the tensors one after another."""

    def __call__(self, weights: Sequence[Weight], *, recipe: Recipe[Any, None]) -> object:
        """Returns the statistics that `Recipe.statistics` carries to every tensor."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One line of the table of methods."""

    params: type[MethodParams]
    """Its parameters' class."""
    combine: Combine
    """Its tensor-local function."""
    statistics: Measure | None = None
    """Its extra pass over all weights before the first tensor is merged; None if it needs none."""
