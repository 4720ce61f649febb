"""Tells from names and shapes which permutations leave a backbone the same function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.alignment import resnet, vit
from merge.alignment.permutations import specify
from merge.errors import UnalignableError

if TYPE_CHECKING:
    from merge.alignment.permutations import Axis, Shapes, Specification
    from merge.weight import State


def specification_of(state: State, *, head_dim: int | None = None) -> Specification:
    """Returns the specification of a timm ResNet or ViT backbone without its head.

    Every tensor must be one that the architecture is known to have and none may be missing: a
    permutation that leaves out one tensor gives another function, and no error.

    Units: `head_dim` counts entries of a ViT's head; None where its size is known, see `vit.axes`.

    Raises:
        UnalignableError: the architecture is another; the message holds the first five names.
    """
    shapes = {name: tuple(state[name].shape) for name in state}
    return specify(_axes(shapes, head_dim=head_dim), shapes=shapes)


def _axes(shapes: Shapes, *, head_dim: int | None) -> dict[str, tuple[Axis, ...]]:
    if resnet.is_resnet(shapes):
        return resnet.axes(shapes)
    if vit.is_vit(shapes):
        return vit.axes(shapes, head_dim=head_dim)
    raise UnalignableError(
        "the tensors are those of neither a timm ResNet nor a timm ViT", list(shapes)
    )
