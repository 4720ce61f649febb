from __future__ import annotations

import torch
from torch import Tensor

from merge.merge import MergeOptions, merge
from merge.parameters.spectral import IsoCParams


def merged_matrix(*vectors: Tensor, scaling: float = 1) -> Tensor:
    """Merges task vectors on a base of zeros."""
    base = {"w": torch.zeros_like(vectors[0])}
    experts = [{"w": vector} for vector in vectors]
    return dict(merge(base, experts, options=MergeOptions(params=IsoCParams(scaling=scaling))))["w"]


def test_all_directions_of_the_sum_take_the_mean_value() -> None:
    """diag(4 1) + diag(-1 -2) = diag(3 -1) has the mean value 2: half of diag(2 -2)."""
    merged = merged_matrix(
        torch.diag(torch.tensor([4.0, 1.0])), torch.diag(torch.tensor([-1.0, -2.0])), scaling=0.5
    )
    torch.testing.assert_close(merged, torch.diag(torch.tensor([1.0, -1.0])))


def test_one_expert_is_levelled_too() -> None:
    """diag(4 2) alone becomes diag(3 3)."""
    merged = merged_matrix(torch.diag(torch.tensor([4.0, 2.0])))
    torch.testing.assert_close(merged, torch.diag(torch.tensor([3.0, 3.0])))


def test_directions_that_the_sum_lacks_stay_lacking() -> None:
    """(3 3; 0 0) has the values sqrt(18) and 0, whose mean is half of the first."""
    merged = merged_matrix(torch.tensor([[3.0, 3.0], [0.0, 0.0]]))
    torch.testing.assert_close(merged, torch.tensor([[1.5, 1.5], [0.0, 0.0]]))


def test_the_merged_matrix_is_an_isometry_times_the_mean() -> None:
    """All singular values of a wide kernel equal the mean of the sum's values."""
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(8, 3, 3, 3, generator=generator) for _ in range(3)]
    mean = torch.linalg.svdvals(torch.stack(vectors).sum(dim=0).flatten(1)).mean()
    found = torch.linalg.svdvals(merged_matrix(*vectors).flatten(1))
    torch.testing.assert_close(found, mean.expand(8), rtol=1e-5, atol=0)
