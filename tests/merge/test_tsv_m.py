from __future__ import annotations

import pytest
import torch
from torch import Tensor

from merge.merge import MergeOptions, merge
from merge.parameters.spectral import TsvMParams


def merged_matrix(*vectors: Tensor, scaling: float = 1) -> Tensor:
    """Merges task vectors on a base of zeros."""
    base = {"w": torch.zeros_like(vectors[0])}
    experts = [{"w": vector} for vector in vectors]
    return dict(merge(base, experts, options=MergeOptions(params=TsvMParams(scaling=scaling))))["w"]


def test_tasks_in_orthogonal_subspaces_merge_to_their_sum() -> None:
    """diag(3 0) and diag(0 -2) keep one triple each, without overlap: half of diag(3 -2)."""
    merged = merged_matrix(
        torch.diag(torch.tensor([3.0, 0.0])), torch.diag(torch.tensor([0.0, -2.0])), scaling=0.5
    )
    assert torch.equal(merged, torch.diag(torch.tensor([1.5, -1.0])))


def test_oblique_left_vectors_are_orthogonalised_by_hand() -> None:
    """2 (1 0)'(1 0) and (.6 .8)'(0 1): left vectors become (3 -1) and (1 3) over sqrt(10)."""
    merged = merged_matrix(
        torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0, 0.6], [0, 0.8]])
    )
    expected = torch.tensor([[6.0, 1.0], [-2.0, 3.0]]) / 10**0.5
    torch.testing.assert_close(merged, expected)


def test_a_shared_left_vector_is_shared_out() -> None:
    """2 (1 0)'(1 0) and (1 0)'(0 1) each keep (1 0) at 1 / sqrt(2), and no new vector."""
    merged = merged_matrix(
        torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    )
    expected = torch.tensor([[2.0, 1.0], [0.0, 0.0]]) / 2**0.5
    torch.testing.assert_close(merged, expected)


def test_each_task_keeps_its_share_of_the_rank_rounded_down() -> None:
    """Of rank five two experts keep two triples each; the third and later are dropped."""
    first = torch.diag(torch.tensor([9.0, 8.0, 7.0, 0.0, 0.0]))
    second = torch.diag(torch.tensor([0.0, 0.0, 1.0, 6.0, 5.0]))
    expected = torch.diag(torch.tensor([9.0, 8.0, 0.0, 6.0, 5.0]))
    torch.testing.assert_close(merged_matrix(first, second), expected)


@pytest.mark.parametrize("shape", [(8, 8), (5, 30), (30, 5), (6, 3, 3, 3)])
def test_one_expert_is_itself(shape: tuple[int, ...]) -> None:
    """All of its triples are kept, and they are already orthonormal."""
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(merged_matrix(vector), vector, rtol=0, atol=1e-6)


def test_equal_experts_of_low_rank_merge_to_themselves() -> None:
    """Rank two fits into each expert's share of three, of rank twelve."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(12, 2, generator=generator), torch.randn(2, 20, generator=generator)
    vector = left @ right
    torch.testing.assert_close(merged_matrix(*[vector] * 4), vector, rtol=0, atol=1e-5)


def test_singular_values_are_those_of_the_tasks() -> None:
    """The spectrum of the merged matrix is the union of the kept spectra."""
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(12, 40, generator=generator) for _ in range(3)]
    kept = torch.cat([torch.linalg.svdvals(vector)[:4] for vector in vectors])
    found = torch.linalg.svdvals(merged_matrix(*vectors))
    torch.testing.assert_close(found, kept.sort(descending=True).values, rtol=1e-5, atol=0)
