"""Permutations of channels: which axes of which tensors they act on, and the act itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.errors import UnalignableError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of every tensor of a state; with the names, all that tells an architecture."""

Permutations = Mapping[str, Tensor]
"""Of every group, the unit of the old order that each unit of the new order is, as int64."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a tensor whose entries are the units of a group, in their order."""

    dim: int
    """Which axis of the tensor."""
    group: str
    """Name of the group whose permutation acts on it."""
    num_repeats: int = 1
    """How often the axis goes through the group: three times for queries, keys and values."""
    num_inner: int = 1
    """Adjacent entries that make up one unit: those of an attention head; one for a channel."""


@dataclass(frozen=True, kw_only=True)
class Specification:
    """Says on which axes the permutations of an architecture act.

    Any permutation of any group, on all of its axes at once, leaves the model the same function.
    """

    axes: Mapping[str, tuple[Axis, ...]]
    """Of every tensor, the axes that move; empty where none does."""
    sizes: Mapping[str, int]
    """Of every group, its number of units."""

    def touching(self, group: str) -> Iterator[tuple[str, Axis]]:
        """Yields the tensors that a group acts on, with the axis."""
        for name, axes in self.axes.items():
            yield from ((name, axis) for axis in axes if axis.group == group)


def check_names(
    shapes: Shapes, *, known: Container[str], needed: Iterable[str], architecture: str
) -> None:
    """Checks that a state has all the tensors that are needed and none that is not known.

    Raises:
        UnalignableError: a tensor is unknown or missing; the message holds the first five.
    """
    unknown = [f"{name} is unknown" for name in shapes if name not in known]
    missing = [f"{name} is missing" for name in needed if name not in shapes]
    if unknown or missing:
        raise UnalignableError(
            f"this is no timm {architecture} without its head", [*unknown, *missing]
        )


def specify(axes: Mapping[str, tuple[Axis, ...]], *, shapes: Shapes) -> Specification:
    """Returns a specification for tensors of these shapes.

    Raises:
        UnalignableError: the axes of a group are of different sizes.
    """
    sizes: dict[str, int] = {}
    misfits = []
    for name, axis in ((name, axis) for name, several in axes.items() for axis in several):
        size, rest = divmod(shapes[name][axis.dim], axis.num_repeats * axis.num_inner)
        if rest or sizes.setdefault(axis.group, size) != size:
            misfits.append(f"{name}{list(shapes[name])}")
    if misfits:
        raise UnalignableError(
            "axes over the same channels differ in size (a grouped convolution, a gated MLP, or "
            "heads of another size)",
            misfits,
        )
    return Specification(axes=axes, sizes=sizes)


def permute(tensor: Tensor, *, axes: Iterable[Axis], permutations: Permutations) -> Tensor:
    """Returns the tensor with the units of the given axes in the new order, and its dtype.

    Shapes: that of the tensor, which is returned itself where nothing moves.
    """
    for axis in axes:
        permutation = permutations[axis.group]
        if not is_identity(permutation):
            index = _entries(permutation, axis=axis).to(tensor.device)
            tensor = tensor.index_select(axis.dim, index)
    return tensor


def is_identity(permutation: Tensor) -> bool:
    """Returns whether a permutation moves nothing."""
    return torch.equal(permutation, torch.arange(len(permutation)))


def by_unit(tensor: Tensor, *, axis: Axis) -> Tensor:
    """Returns a matrix with one row for each unit of an axis, holding all entries of that unit.

    Shapes: (units, entries of the tensor / units).
    """
    before, after = tensor.shape[: axis.dim], tensor.shape[axis.dim + 1 :]
    split = tensor.reshape(*before, axis.num_repeats, -1, axis.num_inner, *after)
    return split.movedim(axis.dim + 1, 0).flatten(1)


def _entries(permutation: Tensor, *, axis: Axis) -> Tensor:
    size = len(permutation) * axis.num_inner
    starts = torch.arange(axis.num_repeats)[:, None, None] * size
    units = permutation[None, :, None] * axis.num_inner
    return (starts + units + torch.arange(axis.num_inner)).flatten()
