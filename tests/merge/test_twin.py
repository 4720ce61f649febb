from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from merge.merge import MergeOptions, merge_tasks
from merge.parameters.per_task import TwinParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Merge = Callable[..., dict[str, list[float]]]

DIAGONALS = [{"w": torch.diag(torch.tensor(values))} for values in ([4.0, 1.0], [0.0, 2.0])]


def models(
    base: dict[str, Tensor], experts: list[dict[str, Tensor]], *, params: TwinParams
) -> list[dict[str, Tensor]]:
    tasks = range(len(experts))
    merged = merge_tasks(base, experts, tasks=tasks, options=MergeOptions(params=params))
    named = list(merged)
    return [{name: tensors[task] for name, tensors in named} for task in tasks]


def random_states(num_states: int, shape: tuple[int, ...]) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"w": torch.randn(shape, generator=generator)} for _ in range(num_states)]


def test_both_models_by_hand() -> None:
    """The shared model is diag(2 1.5), half the sum; differences: diag(2 -0.5), diag(-2 0.5).

    Their parts of rank one, diag(2 0) and diag(-2 0), give diag(4 1.5) and diag(0 1.5).
    """
    first, second = models(
        {"w": torch.zeros(2, 2)}, DIAGONALS, params=TwinParams(scaling=0.5, rank_frac=0.5)
    )
    torch.testing.assert_close(first["w"], torch.diag(torch.tensor([4.0, 1.5])))
    torch.testing.assert_close(second["w"], torch.diag(torch.tensor([0.0, 1.5])))


def test_the_shared_model_is_task_arithmetic(merged_lists: Merge) -> None:
    """The shared model is a quarter of diag(4 3)."""
    merged = merged_lists({"w": torch.zeros(2, 2)}, DIAGONALS, params=TwinParams(scaling=0.25))
    assert merged == {"w": [[1, 0], [0, 0.75]]}


@pytest.mark.parametrize("shape", [(7,), (), (4, 3), (6, 2, 3, 3)])
def test_full_rank_gives_every_task_its_expert(shape: tuple[int, ...]) -> None:
    """The whole difference to the expert is added back."""
    base, *experts = random_states(4, shape)
    for model, expert in zip(
        models(base, experts, params=TwinParams(rank_frac=1)), experts, strict=True
    ):
        torch.testing.assert_close(model["w"], expert["w"], rtol=0, atol=1e-6)


def test_vectors_are_kept_whole_at_any_rank() -> None:
    """A bias has no rank to truncate."""
    base, *experts = random_states(4, (7,))
    for model, expert in zip(models(base, experts, params=TwinParams()), experts, strict=True):
        torch.testing.assert_close(model["w"], expert["w"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (10, 4, 3, 3), (30, 2, 1, 1)])
def test_exclusive_parts_are_truncated_singular_value_decompositions(
    shape: tuple[int, ...],
) -> None:
    """A kernel counts as a matrix with one row per output, wide or tall."""
    base, *experts = random_states(3, shape)
    shared = base["w"] + 0.29 * sum(expert["w"] - base["w"] for expert in experts)
    params = TwinParams(rank_frac=0.25)
    for model, expert in zip(models(base, experts, params=params), experts, strict=True):
        matrix = (expert["w"] - shared).flatten(1).double()
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        rank = max(1, round(0.25 * len(values)))
        expected = (left[:, :rank] * values[:rank] @ right[:rank]).float().view(shape)
        torch.testing.assert_close(model["w"] - shared, expected, rtol=1e-5, atol=1e-5)


def test_at_least_rank_one_is_kept() -> None:
    """A hundredth of rank two rounds to zero, but a matrix of rank one is returned whole."""
    expert = {"w": torch.tensor([[1.0, 2.0], [2.0, 4.0]])}
    (model,) = models({"w": torch.zeros(2, 2)}, [expert], params=TwinParams(rank_frac=0.01))
    torch.testing.assert_close(model["w"], expert["w"])
