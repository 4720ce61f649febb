"""The permutations of timm's vision transformers: hidden units of the MLPs and attention heads."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING

from merge.alignment.permutations import Axis, check_names
from merge.errors import UnalignableError

if TYPE_CHECKING:
    from merge.alignment.permutations import Shapes

DEFAULT_HEAD_DIM = 64
"""Entries of an attention head, or a multiple of them, in every ViT of timm 1.0.31 that has a class
token and is at most 1024 wide. Wider ViTs have 72 to 104. Without a class token the size is
ambiguous: `vit_base_patch16_gap_224` has 48 and `vit_base_patch16_siglip_gap_224` has 64, with the
same names and shapes."""
_WIDEST = 1024

_FIRST_QKV = "blocks.0.attn.qkv.weight"
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
    """Returns whether a state looks like a ViT; `axes` checks every name."""
    return "patch_embed.proj.weight" in shapes and _FIRST_QKV in shapes


def axes(shapes: Shapes, *, head_dim: int | None) -> dict[str, tuple[Axis, ...]]:
    """Returns the axes that move, for every tensor.

    In each block the hidden units of the MLP are one group and the attention heads another. A head
    moves as a whole; its entries keep their order. The residual stream does not move: all blocks
    share it, and a classifier outside the state reads it.

    Units: `head_dim` is the number of entries of one attention head; None stands for
        `DEFAULT_HEAD_DIM` if that is known to be right. A multiple of the true number is also
        right, since it moves several heads together. Any other number changes the function without
        an error.

    Raises:
        UnalignableError: A tensor is unknown, or a tensor that every ViT has is missing, or the
            size of the heads is not known.
    Source: ours; Ainsworth 2022 has no transformers.
    """
    blocks = {match[1] for name in shapes if (match := _BLOCK_TENSOR.fullmatch(name))}
    needed = [f"{block}.{tensor}" for block, tensor in product(sorted(blocks), _NEEDED)]
    several = {name: _axes_of(name, head_dim=head_dim or DEFAULT_HEAD_DIM) for name in shapes}
    known = {name: each for name, each in several.items() if each is not None}
    check_names(shapes, known=known, needed=needed, architecture="ViT")
    if head_dim is None and not _has_default_heads(shapes):
        raise UnalignableError(
            "the size of attention heads must be given (`merge --head-dim`) for a ViT that is this "
            "wide or has no cls_token",
            [f"{_FIRST_QKV}{list(shapes[_FIRST_QKV])}"],
        )
    return known


def _has_default_heads(shapes: Shapes) -> bool:
    return shapes[_FIRST_QKV][1] <= _WIDEST and "cls_token" in shapes


def _axes_of(name: str, *, head_dim: int) -> tuple[Axis, ...] | None:
    """Returns a tensor's axes that move, or None for a tensor that no ViT has."""
    match = _BLOCK_TENSOR.fullmatch(name)
    if not match:
        return () if name in _STILL else None
    block, tensor = match.groups()
    heads, hidden = f"{block}.attn", f"{block}.mlp"
    match tensor:
        case "attn.qkv.weight" | "attn.qkv.bias":
            # Queries of all heads come first, then keys, then values.
            return (Axis(dim=0, group=heads, num_repeats=3, num_inner=head_dim),)
        case "attn.proj.weight":
            return (Axis(dim=1, group=heads, num_inner=head_dim),)
        case "mlp.fc1.weight" | "mlp.fc1.bias":
            return (Axis(dim=0, group=hidden),)
        case "mlp.fc2.weight":
            return (Axis(dim=1, group=hidden),)
    return () if tensor in _STILL_IN_BLOCK else None
