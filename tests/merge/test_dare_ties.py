from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from merge.merge import MergeOptions, merge
from merge.operators.dare import thin
from merge.parameters.sparse import DareTiesParams, TiesParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from merge.weight import Weight


def test_density_one_is_ties() -> None:
    """Nothing is dropped, so the bits are those of TIES with the trim's density."""
    generator = torch.Generator().manual_seed(0)
    base, *experts = ({"w": torch.randn(50, generator=generator)} for _ in range(4))
    dare = DareTiesParams(density=1, trim_density=0.3, scaling=0.7, consensus="mean")
    ties = TiesParams(density=0.3, scaling=0.7, consensus="mean")
    there, back = (
        dict(merge(base, experts, options=MergeOptions(params=params))) for params in (dare, ties)
    )
    assert torch.equal(there["w"], back["w"])


def test_the_trim_counts_dropped_entries(weight: Callable[..., Weight]) -> None:
    """A quarter of all eight entries is kept: the two largest that were not dropped."""
    one = weight([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    thinned = thin(one, 0, density=0.5, rescale=True, seed=0)
    largest = thinned.sort(descending=True).values[:2]
    params = DareTiesParams(density=0.5, trim_density=0.25, scaling=1)
    merged = dict(merge(one.base_state, one.expert_states, options=MergeOptions(params=params)))[
        "w"
    ]
    assert sorted(merged[merged != 0].tolist(), reverse=True) == largest.tolist()
    assert bool((thinned == 0).any())


def test_the_seed_changes_the_result() -> None:
    """Two seeds drop different entries."""
    generator = torch.Generator().manual_seed(0)
    base, *experts = ({"w": torch.randn(50, generator=generator)} for _ in range(3))
    first, second = (
        dict(merge(base, experts, options=MergeOptions(params=DareTiesParams(), seed=seed)))["w"]
        for seed in (0, 1)
    )
    assert not torch.equal(first, second)
