"""Merge jobs of more experts than the tasks that are scored."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from workers.artifacts.metrics import MergeMetrics
from workers.merging.group_probe import GroupProbe
from workers.merging.merge_job import run_merge
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec

if TYPE_CHECKING:
    from workers.workspace import Workspace

Experts = tuple[ExpertSpec, ...]
METHODS: dict[str, dict[str, Any]] = {
    "average": {},
    "ties": {},
    "emr": {},
    "adamerging": {"steps": 2, "batch_size": 8},
    "fisher": {"images": 6},
    "regmean": {"images": 6},
    "frank_wolfe": {"iterations": 2, "images": 8},
    "frank_wolfe_soft": {"iterations": 2, "images": 8, "steps": 2, "batch_size": 8},
    "greedy_soup": {"images": 6},
}


def merge_of(experts: Experts, *, pool: Experts, method: str = "average") -> MergeSpec:
    return MergeSpec(
        method=method,
        params=METHODS[method],
        batch_norm="average",
        recalibration_images=0,
        seed=0,
        base_id=experts[0].base_id,
        experts=experts,
        held_out=(),
        pool=pool,
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_method_merges_the_pool_and_scores_the_group(
    experts: Experts, workspace: Workspace, method: str
) -> None:
    """The tasks of the pool have no sums, and the pool changes the weights."""
    digests = []
    for pool in ((), experts[2:]):
        spec = merge_of(experts[:2], pool=pool, method=method)
        metrics = MergeMetrics.from_json(run_merge(spec, workspace=workspace).metrics)
        assert set(metrics.tasks) == {expert.task for expert in experts[:2]}
        digests.append(metrics.weights_sha256)
    assert method == "greedy_soup" or digests[0] != digests[1]


def test_an_average_with_a_pool_is_that_of_all_experts(
    experts: Experts, workspace: Workspace
) -> None:
    """The group comes first and the pool after it, so the bits are those of one larger group."""
    scored = [
        MergeMetrics.from_json(run_merge(spec, workspace=workspace).metrics)
        for spec in (
            merge_of(experts[:2], pool=experts[2:]),
            merge_of(experts, pool=()),
        )
    ]
    assert scored[0].weights_sha256 == scored[1].weights_sha256
    for task, sums in scored[0].tasks.items():
        assert sums == scored[1].tasks[task]


def test_losses_are_those_of_the_group(experts: Experts, workspace: Workspace) -> None:
    """The pool's experts have images of their own, and no part in a merged model's loss."""
    backbone = workspace.base_backbone(experts[0].base_id)
    base = workspace.base_tensors(experts[0].base_id)
    gradients = []
    for pool in ((), experts[2:]):
        spec = replace(merge_of(experts[:2], pool=pool), batch_norm="base")
        probe = GroupProbe(spec, backbone=backbone, workspace=workspace)
        gradients.append(probe.gradient(base.items(), loss="cross_entropy", batch=0, batch_size=8))
        assert probe.num_tasks == len(probe.accuracies(base.items(), num_images=8)) == 2
    assert all(bool((gradients[0][name] == gradients[1][name]).all()) for name in gradients[0])


def test_the_manifest_names_the_experts_of_the_pool(experts: Experts, workspace: Workspace) -> None:
    """They are among the inputs, so that `verify` and `gc` follow them."""
    manifest = run_merge(merge_of(experts[:2], pool=experts[2:]), workspace=workspace)
    assert manifest.spec["pool"] == [experts[2].id]
    assert experts[2].id in manifest.inputs
