from __future__ import annotations

import pytest
import torch
from torch import Tensor

from merge.merge import MergeOptions, merge
from merge.operators.iso_cts import ranks
from merge.parameters.spectral import IsoCParams, IsoCtsParams


def merged_matrix(*vectors: Tensor, params: IsoCtsParams | IsoCParams) -> Tensor:
    """Merges task vectors on a base of zeros."""
    base = {"w": torch.zeros_like(vectors[0])}
    return dict(
        merge(base, [{"w": vector} for vector in vectors], options=MergeOptions(params=params))
    )["w"]


def random_vectors(number: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(number)]


def test_common_and_own_directions_by_hand() -> None:
    """diag(4 4 3 0) and diag(4 2 -1 2) add up to diag(8 6 2 2), whose first two are common.

    Outside them the first has 3 along the third axis as its own, the second 2 along the fourth; the
    mean of 8, 6, 3, 2 is 4.75, where the sum's values have 4.5. Half of it is asked for.
    """
    merged = merged_matrix(
        torch.diag(torch.tensor([4.0, 4.0, 3.0, 0.0])),
        torch.diag(torch.tensor([4.0, 2.0, -1.0, 2.0])),
        params=IsoCtsParams(common_fraction=0.5, scaling=0.5),
    )
    torch.testing.assert_close(merged, torch.diag(torch.tensor([2.375] * 4)))


@pytest.mark.parametrize(
    ("full", "num_experts", "common_fraction", "expected"),
    [
        (10, 2, 0.8, (8, 1)),
        (10, 3, 0.8, (7, 1)),
        (64, 8, 0.8, (48, 2)),
        (768, 8, 0.8, (616, 19)),
        (4, 20, 0.8, (4, 0)),
        (5, 3, 0, (2, 1)),
        (5, 3, 1, (5, 0)),
    ],
)
def test_directions_that_are_not_common_are_shared_evenly(
    full: int, num_experts: int, common_fraction: float, expected: tuple[int, int]
) -> None:
    """64 - 51 = 13 gives two for each of eight tasks and 48 common; below a half gives none."""
    assert ranks(full, num_experts=num_experts, common_fraction=common_fraction) == expected


def test_with_all_directions_common_it_is_iso_c() -> None:
    """Without task-specific directions the two methods are equal."""
    vectors = random_vectors(3, 8, 20)
    there = merged_matrix(*vectors, params=IsoCtsParams(common_fraction=1))
    torch.testing.assert_close(there, merged_matrix(*vectors, params=IsoCParams()))


def test_one_expert_has_the_same_directions_common_and_own() -> None:
    """The expert's own directions are its remaining ones, so the result is Iso-C's."""
    vectors = random_vectors(1, 8, 20)
    there = merged_matrix(*vectors, params=IsoCtsParams())
    torch.testing.assert_close(there, merged_matrix(*vectors, params=IsoCParams()))


def test_nothing_common_leaves_each_task_its_leading_directions() -> None:
    """Each of two tasks has two of rank four: values 9, 8 and 6, 5, whose mean is 7."""
    merged = merged_matrix(
        torch.diag(torch.tensor([9.0, 8.0, 1.0, 0.0])),
        torch.diag(torch.tensor([0.0, 1.0, 6.0, 5.0])),
        params=IsoCtsParams(common_fraction=0),
    )
    torch.testing.assert_close(merged, 7 * torch.eye(4))


def test_the_merged_matrix_is_an_isometry_times_a_factor() -> None:
    """All singular values of a wide kernel are equal and of the size of the task vectors'."""
    vectors = random_vectors(3, 20, 3, 3, 3)
    values = torch.linalg.svdvals(merged_matrix(*vectors, params=IsoCtsParams()).flatten(1))
    torch.testing.assert_close(values, values[0].expand(20), rtol=1e-5, atol=0)
    sizes = torch.linalg.svdvals(torch.stack(vectors).sum(dim=0).flatten(1))
    assert float(sizes[-1]) < float(values[0]) < float(sizes[0])
