"""Aligns one model to another before a merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from merge.alignment.architectures import specification_of
from merge.alignment.permutations import Permutations, Specification, is_identity, permute
from merge.alignment.weight_matching import match_weights
from merge.errors import UNNAMED, Names, UnalignableError
from merge.inputs.codes import check_mergeable
from merge.inputs.matching import check_match

if TYPE_CHECKING:
    from merge.weight import State


@dataclass(frozen=True, kw_only=True)
class AlignedState(Mapping[str, Tensor]):
    """A view of a state with its channels in another order. Each read permutes one tensor."""

    state: State
    """The state as it is stored."""
    specification: Specification
    """The axes that the permutations act on."""
    permutations: Permutations
    """The permutation of every group of channels."""

    def __getitem__(self, name: str) -> Tensor:
        """Returns a tensor in the new order; it is the stored tensor itself if nothing moves."""
        return permute(
            self.state[name], axes=self.specification.axes[name], permutations=self.permutations
        )

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names in the order of the stored state."""
        return iter(self.state)

    def __len__(self) -> int:
        """Returns the number of tensors."""
        return len(self.state)


def align(
    reference: State,
    other: State,
    *,
    seed: int,
    head_dim: int | None = None,
    names: Names = UNNAMED,
) -> State:
    """Returns `other` with its channels in the order that brings it closest to `reference`.

    The result computes the same function as `other`. It is `other` itself if the present order is
    the closest, as for experts of one base: fine-tuning moves weights but does not exchange
    channels. Otherwise it is a view that permutes each tensor on read, so memory holds a few copies
    of one tensor.

    Args:
        reference: The model whose order is kept.
        other: The model whose channels are reordered.
        seed: Seeds the order in which groups of channels are visited.
        head_dim: Number of entries of a ViT's attention head; None if it is the default, see
            `vit.axes`.
        names: Names of the reference, as the base, and of the other, as the only expert.

    Shapes: as in both models.

    Raises:
        UnmergeableError: Tensors hold codes of quantised weights, or no real numbers.
        MismatchError: Names or shapes differ, or dtypes that are not both floats.
        UnalignableError: The architecture is no timm ResNet or ViT without its head.
        NonFiniteInputError: A weight holds NaN or inf.
    Source: Ainsworth 2022, algorithm 1 (weight matching).
    Scope: model. Weights decide the order, running statistics follow it, counters stay.
    """
    check_mergeable(reference, experts=[other], names=names)
    check_match(reference, experts=[other], names=names, may_mix_floats=True)
    try:
        specification = specification_of(reference, head_dim=head_dim)
    except UnalignableError as error:
        raise error.of(names.base) from error
    permutations = match_weights(
        reference, other, specification=specification, seed=seed, names=names
    )
    if all(is_identity(each) for each in permutations.values()):
        return other
    return AlignedState(state=other, specification=specification, permutations=permutations)
