"""Random measurements instead of images; the peer and this project get the same numbers."""

from collections.abc import Collection, Iterator, Mapping

import torch
from architectures import State
from torch import Tensor

MATRIX = 2


def fisher(weights: State, expert: int) -> State:
    """Returns a random diagonal Fisher information: positive, of one order of magnitude."""
    generator = torch.Generator().manual_seed(expert)
    return {
        name: 0.1 + torch.rand(tensor.shape, generator=generator)
        for name, tensor in weights.items()
    }


def grams(weights: State, expert: int) -> State:
    """Returns Gram matrices for the weights of linear layers, from random inputs."""
    generator = torch.Generator().manual_seed(expert)
    inputs = {
        name: torch.randn(4 * tensor.shape[1], tensor.shape[1], generator=generator)
        for name, tensor in weights.items()
        if tensor.dim() == MATRIX
    }
    return {name: each.T @ each for name, each in inputs.items()}


class RandomProbe:
    """A probe that returns the random measurements."""

    def __init__(self, weights: State) -> None:
        self._weights = weights

    def squared_gradients(
        self, weights: Iterator[tuple[str, Tensor]], *, task: int, num_images: int, is_exact: bool
    ) -> Mapping[str, Tensor]:
        """Returns an expert's Fisher information."""
        del weights, num_images, is_exact
        return fisher(self._weights, task)

    def gram_names(self) -> Collection[str]:
        """Returns the names of the weights of linear layers."""
        return set(grams(self._weights, 0))

    def grams(
        self,
        weights: Iterator[tuple[str, Tensor]],
        *,
        task: int,
        num_images: int,
        names: Collection[str],
    ) -> Mapping[str, Tensor]:
        """Returns an expert's Gram matrices."""
        del weights, num_images
        every = grams(self._weights, task)
        return {name: every[name].double() for name in names}
