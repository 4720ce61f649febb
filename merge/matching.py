"""The check that comes before every merge: base and experts are states of one architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.errors import MismatchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from merge.weight import State


def check_match(base: State, *, experts: Sequence[State]) -> None:
    """Checks names, shapes and dtypes of every expert against the base, one tensor alive at a time.

    Raises:
        MismatchError: something differs; the message holds the first five names.
    """
    kinds = {name: _kind(base, name=name) for name in base}
    differences = [
        f"expert {index}: {difference}"
        for index, expert in enumerate(experts)
        for difference in _differences(kinds, expert=expert)
    ]
    if differences:
        raise MismatchError(differences)


def _differences(kinds: Mapping[str, str], *, expert: State) -> Iterator[str]:
    for name, here in kinds.items():
        if name not in expert:
            yield f"{name} is missing"
            continue
        there = _kind(expert, name=name)
        if there != here:
            yield f"{name} is {there} and the base's {here}"
    yield from (f"{name} is unknown to the base" for name in expert if name not in kinds)


def _kind(state: State, *, name: str) -> str:
    tensor = state[name]
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
