"""RegMean: fit each layer to the outputs of the experts' layers on their own inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.operators.average import mean
from merge.probe import expert_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from merge.parameters.with_data import RegMeanParams
    from merge.probe import Probe
    from merge.protocols import Recipe
    from merge.weight import Weight

PORTION_ENTRIES = 1 << 25
"""Most entries of Gram matrices that are summed at a time, unless one layer alone has more. They
take 256 MB, and another 256 MB for one expert's matrices. Each portion costs another run of the
images through every expert."""
_MATRIX, _KERNEL = 2, 4


@dataclass(frozen=True, kw_only=True)
class _System:
    """The normal equations for one layer's correction to the experts' mean, in float64."""

    centre: Tensor
    """(out, width): the mean of the experts."""
    matrix: Tensor
    """(width, width): the sum of the reduced Gram matrices."""
    moments: Tensor
    """(width, out): the sum of reduced Gram matrix times (expert - mean)."""


def covers(weight: Weight) -> bool:
    """Returns whether a weight is a matrix, or a kernel with more than one input channel.

    Only the shape is known, so kernels of grouped convolutions count as covered unless they are
    depthwise, although they are averaged.
    """
    shape = weight.shape
    return len(shape) == _MATRIX or (len(shape) == _KERNEL and shape[1] > 1)


def learn(
    weights: Sequence[Weight], *, recipe: Recipe[RegMeanParams, None], probe: Probe
) -> dict[str, Tensor]:
    """Returns the merged weights that have Gram matrices, by name.

    Source: Jin 2022, equation 2, with the paper's reduction of off-diagonal entries; here also for
        convolutions, on unfolded patches.
    """
    names = probe.gram_names()
    merged: dict[str, Tensor] = {}
    for portion in _portions([weight for weight in weights if weight.name in names]):
        merged |= _merge_portion(portion, weights=weights, params=recipe.params, probe=probe)
    return merged


def combine(weight: Weight, *, recipe: Recipe[RegMeanParams, Mapping[str, Tensor]]) -> Tensor:
    """Returns (sum of G~_i)^-1 (sum of G~_i W_i), or the mean if a weight has no Gram matrix.

    Shapes: that of the weight.
    Source: Jin 2022, equation 2; biases, normalizations and depthwise kernels are averaged.
    Scope: tensor.
    """
    merged = recipe.group_result.get(weight.name)
    return mean(weight) if merged is None else merged.clone()


def solve(matrix: Tensor, moments: Tensor, *, is_definite: bool) -> Tensor:
    """Solves symmetric equations after scaling the diagonal to 1.

    An input that is zero on every image has a zero on the diagonal and a row of zeros; a one in
    place of that zero gives the input no correction. A scaled matrix that was reduced by the factor
    a has no eigenvalue below 1 - a, so layers with fewer patches than inputs can be solved. Without
    reduction, the smallest correction (in scaled units) among the solutions is taken.

    Shapes:
        matrix: (width, width).
        moments, returns: (width, out).
    """
    diagonal = matrix.diagonal()
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    scaled = matrix * scale * scale[:, None]
    scaled.fill_diagonal_(1.0)
    right = moments * scale[:, None]
    if is_definite:
        solution = torch.cholesky_solve(right, torch.linalg.cholesky(scaled))
    else:
        solution = torch.linalg.pinv(scaled, hermitian=True) @ right
    return solution.mul_(scale[:, None])


def _portions(weights: Sequence[Weight]) -> Iterator[list[Weight]]:
    portion: list[Weight] = []
    held = 0
    for weight in weights:
        entries = _width(weight) ** 2
        if portion and held + entries > PORTION_ENTRIES:
            yield portion
            portion, held = [], 0
        portion.append(weight)
        held += entries
    if portion:
        yield portion


def _merge_portion(
    portion: Sequence[Weight], *, weights: Sequence[Weight], params: RegMeanParams, probe: Probe
) -> dict[str, Tensor]:
    systems = {weight.name: _empty_system(weight) for weight in portion}
    for index in range(weights[0].num_experts):
        grams = probe.grams(
            expert_tensors(weights, index), task=index, num_images=params.images, names=set(systems)
        )
        for weight in portion:
            gram = _reduced(grams[weight.name].to(weight.device), factor=params.reduce)
            _add(systems[weight.name], gram=gram, expert=weight.expert(index))
    return {
        weight.name: _solution(systems.pop(weight.name), is_definite=params.reduce < 1)
        .reshape(weight.shape)
        .to(torch.float32)
        for weight in portion
    }


def _empty_system(weight: Weight) -> _System:
    width = _width(weight)
    centre = mean(weight).double().reshape(-1, width)
    return _System(
        centre=centre,
        matrix=centre.new_zeros(width, width),
        moments=centre.new_zeros(width, len(centre)),
    )


def _add(system: _System, *, gram: Tensor, expert: Tensor) -> None:
    system.matrix.add_(gram)
    system.moments.addmm_(gram, (expert.double().reshape(system.centre.shape) - system.centre).T)


def _solution(system: _System, *, is_definite: bool) -> Tensor:
    return system.centre + solve(system.matrix, system.moments, is_definite=is_definite).T


def _reduced(gram: Tensor, *, factor: float) -> Tensor:
    reduced = gram * factor
    reduced.diagonal().copy_(gram.diagonal())
    return reduced


def _width(weight: Weight) -> int:
    return weight.shape[1:].numel()
