"""Permutations of channels, and the tensor axes that they act on."""

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
"""The shape of every tensor of a state by name: all that identifies an architecture."""

Permutations = Mapping[str, Tensor]
"""For every group, the old position of each unit of the new order, as int64."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a tensor, whose entries are the units of a group in order."""

    dim: int
    """Number of the axis."""
    group: str
    """Name of the group whose permutation acts on the axis."""
    num_repeats: int = 1
    """Number of times that the axis repeats the group: three for queries, keys and values."""
    num_inner: int = 1
    """Adjacent entries of one unit: the size of an attention head, or one for a channel."""


@dataclass(frozen=True, kw_only=True)
class Specification:
    """The axes on which the permutations of an architecture act.

    Any permutation of any group, applied to all of its axes at once, keeps the model's function.
    """

    axes: Mapping[str, tuple[Axis, ...]]
    """For every tensor, its axes that move; empty if none moves."""
    sizes: Mapping[str, int]
    """For every group, its number of units."""

    def touching(self, group: str) -> Iterator[tuple[str, Axis]]:
        """Yields the name and axis of every tensor that a group's permutation acts on."""
        for name, axes in self.axes.items():
            yield from ((name, axis) for axis in axes if axis.group == group)


def check_names(
    shapes: Shapes, *, known: Container[str], needed: Iterable[str], architecture: str
) -> None:
    """Checks that a state has all needed tensors and no unknown tensor.

    Raises:
        UnalignableError: A tensor is unknown or missing; the message has the first five names.
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
        UnalignableError: The axes of a group have different sizes.
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
    """Returns the tensor with the units of the given axes in the new order.

    It returns the tensor itself if nothing moves.

    Shapes: that of the tensor.
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
    """Returns a matrix with one row for each unit of an axis, which holds the unit's entries.

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
