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
_CODES = re.compile(
    r"(^|\.)(q_?weight|q_?zeros|q_?invperm|qidxs|w_q|weight_packed|_packed_params)$", re.IGNORECASE
)
"""Names of codes in the formats of GPTQ, AWQ, EXL2, HQQ, QuIP#, compressed-tensors and torch. As
floats, some of them are weights of an attention's queries."""
_TABLES = re.compile(r"(^|\.)(scb|(nested_)?(absmax|quant_map))$|\.quant_state\.", re.IGNORECASE)
"""Names of scales in the formats of bitsandbytes."""
_SCALES = (
    *("scale", "scales", "scale_inv", "scale_inverse", "qscale", "quant_scale", "dequant_scale"),
    *("zero_point", "zero_points", "zero", "zeros", "zp", "absmax", "SCB"),
)
_SCALES_OF_A_LAYER = (
    *(*_SCALES, *(f"_{each}" for each in _SCALES), "wscales"),
    *("weight_scale", "weight_scales", "weight_scale_inv", "weight_zero_point"),
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
        is_code = _CODES.search(name) and not tensor.is_floating_point()
        if is_code or _TABLES.search(name):
            yield f"{name} is {described(tensor)} and part of a quantised weight"
        elif tensor.dtype not in _FLOATS and not _is_flag_or_counter(tensor):
            scale = _scale_of(name, tensor=tensor, state=state)
            if scale is not None:
                yield f"{name} is {described(tensor)}, codes of a quantised weight with {scale}"
            elif not _is_integer(tensor):
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

    For `x.weight` these are `x.weight_scale`, `x.weight.scale` and `x.scale_weight`. For small
    integers they also are `x.w_scale` beside `x.w_blocks` and, unless the tensor may be a counter,
    a mask or a table beside a learned scale, `x.scale`.
    """
    prefix, dot, last = name.rpartition(".")
    layer = f"{prefix}{dot}"
    spelled = [f"{name}{joint}{scale}" for joint, scale in product(("_", ".", "._"), _SCALES)]
    spelled += [f"{layer}{scale}_{last}" for scale in _SCALES]
    if tensor.dtype in _SMALL_INTEGERS or not _is_integer(tensor):
        stem, joint, _ = last.rpartition("_")
        spelled += [f"{layer}{stem}_{scale}" for scale in _SCALES if stem and joint]
        if tensor.ndim > 1 or (tensor.dtype == torch.int8 and tensor.numel() > 1):
            spelled += [f"{layer}{scale}" for scale in _SCALES_OF_A_LAYER]
    return next((each for each in spelled if each in state), None)


def _is_flag_or_counter(tensor: Tensor) -> bool:
    """Returns whether a tensor is bool, or one int64, as BatchNorm's count of batches is."""
    return tensor.dtype == torch.bool or (tensor.dtype == torch.int64 and tensor.numel() == 1)


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())
