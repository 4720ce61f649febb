"""Checks before every merge that base and experts have one architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.errors import MismatchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from torch import Tensor

    from merge.weight import State

    _Kind = tuple[torch.dtype, torch.Size]


def check_match(base: State, *, experts: Sequence[State]) -> None:
    """Checks names, shapes and dtypes of every expert against the base.

    Only one tensor is in memory at a time.

    Raises:
        MismatchError: A name, shape or dtype differs; the message has the first five differences.
    """
    kinds = {name: _kind(base[name]) for name in base}
    differences = [
        f"expert {index}: {difference}"
        for index, expert in enumerate(experts)
        for difference in _differences(kinds, expert=expert)
    ]
    if differences:
        raise MismatchError(differences)


def _differences(kinds: Mapping[str, _Kind], *, expert: State) -> Iterator[str]:
    for name, here in kinds.items():
        if name not in expert:
            yield f"{name} is missing"
            continue
        there = _kind(expert[name])
        if there != here:
            yield f"{name} is {_text(there)} and the base's {_text(here)}"
    yield from (f"{name} is unknown to the base" for name in expert if name not in kinds)


def _kind(tensor: Tensor) -> _Kind:
    return tensor.dtype, tensor.shape


def _text(kind: _Kind) -> str:
    dtype, shape = kind
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"
