"""Whole merge jobs with methods that read data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from workers.merging.merge_job import run_merge
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.workspace import Workspace

Experts = tuple[ExpertSpec, ...]
METHODS: dict[str, dict[str, Any]] = {
    "average": {},
    "adamerging": {"steps": 2, "lr": 0.1, "batch_size": 8, "trim_density": 0.5},
    "fisher": {"images": 6},
    "regmean": {"images": 6},
    "frank_wolfe": {"iterations": 2, "images": 40, "granularity": "tensor"},
    "frank_wolfe_soft": {"iterations": 2, "images": 8, "steps": 2, "lr": 0.1, "batch_size": 8},
    "greedy_soup": {"images": 6},
}
READING = [name for name in METHODS if name != "average"]


def merge_of(experts: Experts, *, method: str, **changes: Any) -> MergeSpec:  # noqa: ANN401 any field
    spec = MergeSpec(
        method=method,
        params=METHODS[method],
        batch_norm="average",
        recalibration_images=0,
        seed=0,
        base_id=experts[0].base_id,
        experts=experts,
        held_out=(),
    )
    return replace(spec, **changes)


def merged_by(spec: MergeSpec, *, workspace: Workspace) -> dict[str, Tensor]:
    """Runs a merge and returns a copy of the state that was evaluated."""
    run_merge(spec, workspace=workspace)
    module = workspace._backbone(spec.base_id, linearised=False).module
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.mark.parametrize("method", READING)
def test_merging_again_in_another_process_gives_the_same_bits(
    experts: Experts, new_workspace: Callable[[], Workspace], method: str
) -> None:
    """Neither torch's global generator nor earlier jobs of the process matter."""
    spec = merge_of(experts, method=method)
    torch.manual_seed(1)
    first = merged_by(spec, workspace=new_workspace())
    warm = new_workspace()
    merged_by(merge_of(experts[1:], method="frank_wolfe"), workspace=warm)
    torch.manual_seed(2)
    assert differing(first, merged_by(spec, workspace=warm)) == []


@pytest.mark.parametrize("method", READING)
def test_no_gradient_stays_in_the_backbone(
    experts: Experts, workspace: Workspace, method: str
) -> None:
    """A gradient is as large as the model. Running statistics follow the policy."""
    merged = merged_by(merge_of(experts, method=method), workspace=workspace)
    module = workspace._backbone(experts[0].base_id, linearised=False).module
    assert all(weight.grad is None for weight in module.parameters())
    average = merged_by(merge_of(experts, method="average"), workspace=workspace)
    assert not any("running" in name for name in differing(merged, average))


@pytest.mark.parametrize("method", [name for name in READING if name != "greedy_soup"])
def test_another_seed_reads_other_images(
    experts: Experts, workspace: Workspace, method: str
) -> None:
    """The method cards call these methods random.

    A greedy soup may still choose the same experts.
    """
    few = METHODS[method] | {"batch_size" if method == "adamerging" else "images": 4}
    states = [
        merged_by(merge_of(experts, method=method, params=few, seed=seed), workspace=workspace)
        for seed in (0, 1)
    ]
    assert differing(*states)


@pytest.mark.parametrize("method", READING)
def test_one_expert_merges_into_itself(experts: Experts, workspace: Workspace, method: str) -> None:
    """Any weighted mean of one expert is the expert, as is its task vector at coefficient 1."""
    alone = {"adamerging": {"initial": 1.0, "steps": 1, "lr": 1e-9}}
    alone["frank_wolfe"] = {"scaling": 1.0, "iterations": 2}
    alone["frank_wolfe_soft"] = alone["adamerging"] | {"iterations": 2, "batch_size": 8}
    params = alone.get(method, METHODS[method])
    merged = merged_by(merge_of(experts[:1], method=method, params=params), workspace=workspace)
    expert = workspace.expert_tensors(experts[0].id)
    for name, tensor in expert.items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-5, atol=1e-6)
