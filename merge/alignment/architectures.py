"""Finds the permutations that keep a backbone's function, from names and shapes."""

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

    The state must have exactly the tensors of the architecture: a permutation that misses one
    tensor would change the function without an error.

    Units: `head_dim` is the number of entries of a ViT's attention head; None if it is the default,
        see `vit.axes`.

    Raises:
        UnalignableError: It is another architecture; the message has the first five names.
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
