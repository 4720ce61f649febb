"""Entries of merged tensors that stay unknown until every tensor has been merged.

TIES has such entries: where trimmed values cancel, the majority sign of the whole model decides. A
caller that keeps all merged tensors anyway can have these entries written at the end, which spares
a pass over the model (`MergeOptions.may_defer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge.one_tensor import check_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class DeferredEntries:
    """The final values of some entries of one merged tensor."""

    name: str
    """Name of the tensor."""
    positions: Tensor
    """(num,): positions in the flattened tensor."""
    values: Tensor
    """(num,): float32."""

    def write(self, tensor: Tensor) -> None:
        """Writes the values into the merged tensor, in the tensor's dtype."""
        tensor.view(-1)[self.positions] = self.values.to(tensor.dtype)


def write_deferred(
    merged: Iterator[tuple[str, tuple[Tensor, ...]]],
    *,
    deferred_by_group: Sequence[Callable[[], Iterator[DeferredEntries]]],
    method: str,
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Yields all merged tensors, then writes the deferred entries into them.

    Args:
        merged: Names, each with the merged tensors of every group.
        deferred_by_group: For every group, a function that yields the group's deferred entries. It
            is called when all tensors have been merged.
        method: Name of the method, for errors.

    Raises:
        NonFiniteMergeError: A deferred entry is NaN or inf in the tensor's dtype.
    """
    kept = {}
    for name, tensors in merged:
        kept[name] = tensors
        yield name, tensors
    for group, deferred in enumerate(deferred_by_group):
        for entries in deferred():
            tensor = kept[entries.name][group]
            entries.write(tensor)
            check_finite(entries.values.to(tensor.dtype), name=entries.name, method=method)
