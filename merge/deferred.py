"""Entries that no method can know before every tensor is merged, for whoever keeps the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge.one_tensor import check_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LateEntries:
    """Some entries of one merged tensor."""

    name: str
    """The tensor's."""
    positions: Tensor
    """(num,): in the flattened tensor."""
    values: Tensor
    """(num,): float32."""

    def write(self, tensor: Tensor) -> None:
        """Writes them into the merged tensor, in its dtype."""
        tensor.view(-1)[self.positions] = self.values.to(tensor.dtype)


def settled(
    merged: Iterator[tuple[str, tuple[Tensor, ...]]],
    *,
    lates: Sequence[Callable[[], Iterator[LateEntries]]],
    method: str,
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Yields what is merged, and then writes into it what comes late.

    Args:
        merged: Names, and tensors of every group.
        lates: Of every group, what gives its late entries once all its tensors are merged.
        method: Its name, for errors.

    Raises:
        NonFiniteMergeError: A late entry is NaN or inf in the tensor's dtype.
    """
    kept = {}
    for name, tensors in merged:
        kept[name] = tensors
        yield name, tensors
    for group, late in enumerate(lates):
        for entries in late():
            tensor = kept[entries.name][group]
            entries.write(tensor)
            check_finite(tensor, name=entries.name, method=method)
