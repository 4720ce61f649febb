"""Checks before every merge that base and experts have one architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.errors import UNNAMED, MismatchError, Names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor

    from merge.weight import State

    _Kind = tuple[torch.dtype, torch.Size]

MAX_HEADS = 2
"""Most layers that differ between models of one architecture: the base's head and an expert's."""
MIXED_FLOATS = "only the types of floats differ; --dtype float32 converts them while merging"


def check_match(
    base: State,
    *,
    experts: Sequence[State],
    names: Names = UNNAMED,
    may_mix_floats: bool = False,
) -> None:
    """Checks names, shapes and dtypes of every expert against the base.

    Only one tensor is in memory at a time.

    Args:
        base: The base.
        experts: The experts.
        names: Names for the error.
        may_mix_floats: Whether one tensor may have several floating dtypes.

    Raises:
        MismatchError: A name, shape or dtype differs; the message has the first five differences of
            each expert.
    """
    kinds = {name: _kind(base[name]) for name in base}
    differences = {
        names.expert(index): list(
            _differences(kinds, expert=expert, may_mix_floats=may_mix_floats).values()
        )
        for index, expert in enumerate(experts)
    }
    found = {expert: each for expert, each in differences.items() if each}
    if found:
        raise MismatchError(found, base=names.base, remedy=_remedy(kinds, experts=experts))


def described(tensor: Tensor) -> str:
    """Returns a tensor's dtype and shape: `float32[2, 3]`."""
    return _text(_kind(tensor))


def _remedy(kinds: Mapping[str, _Kind], *, experts: Sequence[State]) -> str:
    """Returns how to make base and experts match, where the differences tell; else nothing."""
    mixing = [_differences(kinds, expert=each, may_mix_floats=True) for each in experts]
    if not any(mixing):
        return MIXED_FLOATS
    for expert in experts:
        prefix = _prefix(expert, beside=kinds)
        if prefix == ".":
            return "a dot remains before names of experts: give --prefix with the dot at its end"
        if prefix:
            return (
                f"names of experts begin with {prefix!r}, and the base's do not; --prefix {prefix} "
                "removes it, if all experts have it"
            )
        if prefix := _prefix(kinds, beside=expert):
            return f"names of the base begin with {prefix!r}, and an expert's do not; remove it"
    layers = {name.rpartition(".")[0] for each in mixing for name in each}
    if len(layers) <= MAX_HEADS and any(name.rpartition(".")[0] not in layers for name in kinds):
        return (
            f"all tensors outside {' and '.join(sorted(layers))} match; a classifier belongs to "
            "its task and is not merged: leave it out of base and experts"
        )
    return ""


def _prefix(state: Mapping[str, object], *, beside: Mapping[str, object]) -> str:
    """Returns the prefix that a state has before every name of another one, or nothing."""
    first = next(iter(beside), "")
    candidates = [name.removesuffix(first) for name in state if name.endswith(f".{first}")]
    return next((each for each in candidates if all(each + name in state for name in beside)), "")


def _differences(
    kinds: Mapping[str, _Kind], *, expert: State, may_mix_floats: bool
) -> dict[str, str]:
    """Returns how an expert's tensors differ from the base's, by their names."""
    found = {}
    for name, here in kinds.items():
        if name not in expert:
            found[name] = f"{name} is missing"
            continue
        there = _kind(expert[name])
        are_mixed = may_mix_floats and here[0].is_floating_point and there[0].is_floating_point
        if here[1] != there[1] or (here[0] != there[0] and not are_mixed):
            found[name] = f"{name} is {_text(there)} and the base's {_text(here)}"
    unknown = (name for name in expert if name not in kinds)
    return found | {name: f"{name} is unknown to the base" for name in unknown}


def _kind(tensor: Tensor) -> _Kind:
    return tensor.dtype, tensor.shape


def _text(kind: _Kind) -> str:
    dtype, shape = kind
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"
