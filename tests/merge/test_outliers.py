from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import torch

from merge.merge import MergeOptions, merge
from merge.outliers import LEAST_RATIO, Outlier
from merge.parameters.linear import AverageParams
from merge.parameters.sparse import DareParams
from merge.weight import BLOCK_ENTRIES

if TYPE_CHECKING:
    from merge.parameters.method_params import MethodParams

BLOWN_UP = DareParams(density=1e-4, scaling=10)
"""Keeps one of 10,000 entries, 100,000 times as large."""


def outliers(base: torch.Tensor, expert: torch.Tensor, *, params: MethodParams) -> list[Outlier]:
    found: list[Outlier] = []
    options = MergeOptions(params=params, on_outlier=found.append, num_threads=2)
    dict(merge({"w": base}, [{"w": expert}], options=options))
    return found


def test_a_merge_far_beyond_its_experts_is_told() -> None:
    """The outlier has the tensor, the method and both magnitudes."""
    zeros = torch.zeros(BLOCK_ENTRIES + 1)
    (found,) = outliers(zeros, zeros + 0.5, params=BLOWN_UP)
    assert found.name == "w"
    assert found.method == "dare"
    assert found.greatest == pytest.approx(0.5e5)
    assert found.greatest_input == 0.5
    assert str(found) == (
        "w merged with dare reaches 5e+04, though no value of it in the base and the experts "
        "exceeds 0.5"
    )


@pytest.mark.parametrize("place", [0, BLOCK_ENTRIES])
@pytest.mark.parametrize("of_base", [True, False])
def test_a_large_value_anywhere_in_a_model_excuses_the_merge(place: int, *, of_base: bool) -> None:
    """The base or an expert reaches a thousandth of the merge, in the first or the last block."""
    base = torch.zeros(BLOCK_ENTRIES + 1)
    expert = base + 0.5
    (base if of_base else expert)[place] += 0.5e5 / LEAST_RATIO
    if of_base:
        expert[place] = base[place]
    assert outliers(base, expert, params=BLOWN_UP) == []


def test_an_average_is_never_an_outlier() -> None:
    """Neither is a merge of zeros."""
    for value in (0.0, 1.0):
        assert outliers(torch.zeros(3), torch.full((3,), value), params=AverageParams()) == []


def test_an_outlier_is_logged_unless_it_is_collected(caplog: pytest.LogCaptureFixture) -> None:
    """A study's worker has the line in its log."""
    zeros = torch.zeros(BLOCK_ENTRIES)
    with caplog.at_level(logging.WARNING):
        dict(merge({"w": zeros}, [{"w": zeros + 1}], options=MergeOptions(params=BLOWN_UP)))
    assert "w merged with dare reaches" in caplog.text
