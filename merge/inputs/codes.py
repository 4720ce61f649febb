"""Finds tensors whose numbers cannot be merged: codes of quantised weights, and rare dtypes.

A quantised weight is stored as codes, small integers or 8-bit floats, beside scales that turn them
back into numbers. The mean or the maximum of two codes is another weight's code, so such models are
refused, whatever the method.
"""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING

import torch

from merge.errors import UNNAMED, Names, UnmergeableError
from merge.inputs.matching import described

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from merge.weight import State

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SIGNED_OR_BYTES = (torch.int8, torch.uint8, torch.int16, torch.int32)
"""Integers that most formats store codes in, some of them several codes in one. Counters and tables
of indices are int64 in torch's own modules."""
_SMALL_INTEGERS = (*_SIGNED_OR_BYTES, torch.uint16, torch.uint32)
_QUANTISED = re.compile(
    r"(^|\.)(qweight|qzeros|qscales?|scb|(nested_)?(absmax|quant_map)|weight_packed|w_q|qidxs"
    r"|_packed_params)$|\.quant_state\.|\._packed_params\.",
    re.IGNORECASE,
)
"""Names that only quantised layers have: those of GPTQ, AWQ, bitsandbytes, compressed-tensors, HQQ,
QuIP# and torch itself."""
_SCALES = (
    *("scale", "scales", "scale_inv", "scale_inverse", "qscale"),
    *("zero_point", "zero_points", "zero", "zeros", "zp", "absmax", "SCB"),
)


def check_mergeable(base: State, *, experts: Sequence[State], names: Names = UNNAMED) -> None:
    """Checks that the numbers of every tensor of the base and of each expert can be merged.

    Raises:
        UnmergeableError: Tensors hold codes of quantised weights, or their dtype is no float,
            integer or bool that torch computes with; the message has the first five of each model.
    """
    causes = {names.base: list(_unmergeable(base))}
    for index, expert in enumerate(experts):
        found = list(_unmergeable(expert))
        causes[names.expert(index)] = found or list(_differing(expert, base, names=names))
    if any(causes.values()):
        raise UnmergeableError({owner: each for owner, each in causes.items() if each})


def _unmergeable(state: State) -> Iterator[str]:
    """Yields each tensor that holds codes or has a dtype that no method merges, with the reason."""
    for name in state:
        tensor = state[name]
        is_number = tensor.dtype in _FLOATS or _is_integer(tensor)
        if _QUANTISED.search(name):
            yield f"{name} is {described(tensor)} and part of a quantised weight"
        elif not is_number or (tensor.dtype in _SMALL_INTEGERS and tensor.numel() > 1):
            scale = _scale_of(name, tensor=tensor, state=state)
            if scale is not None:
                yield f"{name} is {described(tensor)}, codes of a quantised weight with {scale}"
            elif not is_number:
                yield f"{name} is {described(tensor)}, which no method merges"


def _differing(expert: State, base: State, *, names: Names) -> Iterator[str]:
    """Yields an expert's small integers that are not the base's and no single counter."""
    for name in expert:
        tensor = expert[name]
        if tensor.dtype not in _SIGNED_OR_BYTES or tensor.numel() <= 1 or name not in base:
            continue
        if base[name].dtype == tensor.dtype and not torch.equal(tensor, base[name]):
            yield (
                f"{name} is {described(tensor)} and differs from that of {names.base}, as codes of "
                "a quantised weight do"
            )


def _scale_of(name: str, *, tensor: Tensor, state: State) -> str | None:
    """Returns the name of a scale or zero point beside a tensor, or None.

    For `x.weight` these are `x.weight_scale`, `x.weight.scale`, `x.scale_weight` and, unless the
    tensor may be a mask or a table beside a learned scale, `x.scale`.
    """
    prefix, dot, last = name.rpartition(".")
    module = f"{prefix}{dot}"
    spelled = [f"{name}{joint}{scale}" for joint, scale in product(("_", ".", "._"), _SCALES)]
    spelled += [f"{module}{scale}_{last}" for scale in _SCALES]
    if tensor.ndim > 1 or tensor.dtype == torch.int8 or tensor.is_floating_point():
        spelled += [f"{module}{mark}{scale}" for mark, scale in product(("", "_"), _SCALES)]
    return next((each for each in spelled if each in state), None)


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())
