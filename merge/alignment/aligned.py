"""The step before a merge: one model with its channels in the order of another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from merge.alignment.architectures import specification_of
from merge.alignment.permutations import Permutations, Specification, is_identity, permute
from merge.alignment.weight_matching import match_weights
from merge.matching import check_match

if TYPE_CHECKING:
    from merge.weight import State


@dataclass(frozen=True, kw_only=True)
class AlignedState(Mapping[str, Tensor]):
    """A view of a state with its channels in another order; each tensor is permuted when read."""

    state: State
    """The state as it is stored."""
    specification: Specification
    """Which axes move."""
    permutations: Permutations
    """Where their entries come from."""

    def __getitem__(self, name: str) -> Tensor:
        """Returns a tensor in the new order: a copy if anything moves, else the stored one."""
        return permute(
            self.state[name], axes=self.specification.axes[name], permutations=self.permutations
        )

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names in the order of the stored state."""
        return iter(self.state)

    def __len__(self) -> int:
        """Returns the number of tensors."""
        return len(self.state)


def align(reference: State, other: State, *, seed: int, head_dim: int | None = None) -> State:
    """Returns `other`, the same function, with its channels in the order closest to `reference`'s.

    The result is `other` itself where that order is the present one, as it is for experts of one
    base: fine-tuning moves weights, it does not exchange channels. Else it is a view that permutes
    each tensor when it is read, so that memory is that of a few copies of one tensor.

    Shapes: as in both.
    Units: `head_dim` counts entries of a ViT's head; None where its size is known, see `vit.axes`.

    Raises:
        MismatchError: names, shapes or dtypes differ.
        UnalignableError: the architecture is no timm ResNet or ViT without its head.
        NonFiniteInputError: a weight holds NaN or inf.
    Source: Ainsworth 2022, algorithm 1 (weight matching).
    Scope: model. Weights decide, running statistics follow, counters stay.
    """
    check_match(reference, experts=[other])
    specification = specification_of(reference, head_dim=head_dim)
    permutations = match_weights(reference, other, specification=specification, seed=seed)
    if all(is_identity(each) for each in permutations.values()):
        return other
    return AlignedState(state=other, specification=specification, permutations=permutations)
