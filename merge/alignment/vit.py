"""The permutations of timm's vision transformers: hidden units of the MLPs and whole heads."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING

from merge.alignment.permutations import Axis
from merge.errors import UnalignableError

if TYPE_CHECKING:
    from merge.alignment.permutations import Shapes

DEFAULT_HEAD_DIM = 64
"""The paper's, and of all ViTs in timm 1.0.31 that are at most `_WIDEST` wide."""
_WIDEST = 1024
"""Wider ones have heads of 72, 80, 88 or 104 entries, so that nothing is assumed about them."""

_BLOCK_TENSOR = re.compile(r"(blocks\.\d+)\.(.+)")
_NEEDED = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
_STILL_IN_BLOCK = {
    *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"),
    *("attn.proj.bias", "mlp.fc2.bias"),
}
_STILL = {
    *("cls_token", "dist_token", "reg_token", "pos_embed"),
    *("patch_embed.proj.weight", "patch_embed.proj.bias"),
    *("norm_pre.weight", "norm_pre.bias", "norm.weight", "norm.bias"),
    *("fc_norm.weight", "fc_norm.bias"),
}


def is_vit(shapes: Shapes) -> bool:
    """Returns whether some names are those of a ViT; whether all are is for `axes` to find."""
    return "patch_embed.proj.weight" in shapes and "blocks.0.attn.qkv.weight" in shapes


def axes(shapes: Shapes, *, head_dim: int | None) -> dict[str, tuple[Axis, ...]]:
    """Returns for every tensor the axes that move.

    Of each block the hidden units of the MLP are a group and the heads are one, moved as a whole:
    entries within a head keep their order. The residual stream does not move: there is one for all
    blocks, and a head reads it that is no part of the state.

    Units: `head_dim` counts the queries' entries of one head; None stands for `DEFAULT_HEAD_DIM` in
        models where that is known to be right. A multiple of the true number is right too, as it
        moves several heads together; anything else changes the function.

    Raises:
        UnalignableError: a tensor is unknown, or one that a ViT must have is missing, or the size
            of the heads is not known.
    Source: ours; Ainsworth 2022 has no transformers.
    """
    known = {name: _axes_of(name, head_dim=_head_dim(shapes, given=head_dim)) for name in shapes}
    blocks = {match[1] for name in shapes if (match := _BLOCK_TENSOR.fullmatch(name))}
    needed = {f"{block}.{tensor}" for block, tensor in product(blocks, _NEEDED)}
    unknown = {name for name, several in known.items() if several is None}
    if differences := unknown | (needed - known.keys()):
        raise UnalignableError(
            "a ViT without its head has more or fewer tensors than these", sorted(differences)
        )
    return {name: several for name, several in known.items() if several is not None}


def _head_dim(shapes: Shapes, *, given: int | None) -> int:
    name = "blocks.0.attn.qkv.weight"
    width = shapes[name][1]
    if given is None and width > _WIDEST:
        raise UnalignableError(
            f"the head_dim of a ViT {width} wide must be given, as it is not in", [name]
        )
    return given or DEFAULT_HEAD_DIM


def _axes_of(name: str, *, head_dim: int) -> tuple[Axis, ...] | None:
    """Returns the axes that move, or None for a tensor that no ViT has."""
    match = _BLOCK_TENSOR.fullmatch(name)
    if not match:
        return () if name in _STILL else None
    block, tensor = match.groups()
    heads, hidden = f"{block}.attn", f"{block}.mlp"
    match tensor:
        case "attn.qkv.weight" | "attn.qkv.bias":
            # Queries, keys and values lie one after another, each of all heads.
            return (Axis(dim=0, group=heads, num_repeats=3, num_inner=head_dim),)
        case "attn.proj.weight":
            return (Axis(dim=1, group=heads, num_inner=head_dim),)
        case "mlp.fc1.weight" | "mlp.fc1.bias":
            return (Axis(dim=0, group=hidden),)
        case "mlp.fc2.weight":
            return (Axis(dim=1, group=hidden),)
    return () if tensor in _STILL_IN_BLOCK else None
