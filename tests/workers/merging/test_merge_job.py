import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from eval.evaluate import evaluate
from merge.errors import MismatchError
from workers.artifacts.manifests import Manifest
from workers.merging.merge_job import run_merge
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.workspace import MissingArtifactError, Workspace

Experts = tuple[ExpertSpec, ...]
POLICIES = ("average", "pooled", "base", "recalibrate", "per_task")


def merge_of(
    experts: Experts,
    *,
    held_out: Experts = (),
    policy: str = "average",
    **changes: Any,  # noqa: ANN401 any field
) -> MergeSpec:
    spec = MergeSpec(
        method="average",
        params={},
        batch_norm=policy,
        recalibration_images=24 if policy == "recalibrate" else 0,
        seed=0,
        base_id=experts[0].base_id,
        experts=experts,
        held_out=held_out,
    )
    return replace(spec, **changes)


def scores(manifest: Manifest) -> dict[str, Any]:
    tasks: dict[str, Any] = manifest.metrics["tasks"]
    return tasks


def score_by_hand(
    state: dict[str, Tensor], *, expert: ExpertSpec, workspace: Workspace
) -> dict[str, Any]:
    """Evaluates a state dict under an expert's head without the job's code."""
    backbone = workspace.base_backbone(expert.base_id)
    backbone.module.load_state_dict(state)
    sums = evaluate(
        backbone.module,
        workspace.expert_head(expert.id),
        split=workspace.split(expert.data_id, "test"),
        normalization=backbone.normalization,
        device=workspace.device,
    )
    return dict(sums.to_json())


def average_of(experts: Experts, *, workspace: Workspace) -> dict[str, Tensor]:
    states = [workspace.expert_tensors(expert.id) for expert in experts]
    return {
        name: sum(state[name] for state in states) / len(states)  # type: ignore[misc]
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }


def test_average_scores_what_the_averaged_weights_score(
    experts: Experts, new_workspace: Callable[[], Workspace]
) -> None:
    """Every task is evaluated under its own expert's head, on weights averaged by the test."""
    pair = experts[:2]
    merged = scores(run_merge(merge_of(pair), workspace=new_workspace()))
    workspace = new_workspace()
    state = average_of(pair, workspace=workspace)
    assert merged == {
        expert.task: score_by_hand(state, expert=expert, workspace=workspace) for expert in pair
    }


def test_one_expert_at_scaling_1_scores_what_the_expert_scored(
    experts: Experts, workspace: Workspace
) -> None:
    """Task arithmetic returns the expert up to the rounding of base + (expert - base)."""
    spec = merge_of(experts[:1], method="task_arithmetic", params={"scaling": 1.0})
    merged = scores(run_merge(spec, workspace=workspace))[experts[0].task]
    own = workspace.manifest("expert", experts[0].id).metrics["test"]
    assert merged["num_examples"] == own["num_examples"]
    assert merged["num_correct"] == own["num_correct"]
    assert merged["loss_sum"] == pytest.approx(own["loss_sum"], rel=1e-5)


def test_scaling_0_scores_what_the_base_scores(experts: Experts, workspace: Workspace) -> None:
    """With the base's statistics the merge is the base, bit for bit, under every head."""
    spec = merge_of(experts, policy="base", method="task_arithmetic", params={"scaling": 0.0})
    merged = scores(run_merge(spec, workspace=workspace))
    assert merged == {
        expert.task: workspace.manifest("expert", expert.id).metrics["base"] for expert in experts
    }


def test_held_out_tasks_are_evaluated_and_not_merged(
    experts: Experts, new_workspace: Callable[[], Workspace]
) -> None:
    """The scores of the group are the same without held-out tasks."""
    alone = scores(run_merge(merge_of(experts[:2]), workspace=new_workspace()))
    spec = merge_of(experts[:2], held_out=experts[2:])
    both = scores(run_merge(spec, workspace=new_workspace()))
    held_out = both.pop(experts[2].task)
    assert both == alone
    workspace = new_workspace()
    state = average_of(experts[:2], workspace=workspace)
    assert held_out == score_by_hand(state, expert=experts[2], workspace=workspace)


def test_policies_for_statistics_give_other_losses(experts: Experts, workspace: Workspace) -> None:
    """On a model with BatchNorm the losses of all five policies differ."""
    losses = {
        policy: scores(run_merge(merge_of(experts, policy=policy), workspace=workspace))
        for policy in POLICIES
    }
    sums = [tuple(each["loss_sum"] for each in tasks.values()) for tasks in losses.values()]
    assert None not in {loss for each in sums for loss in each}
    assert len(set(sums)) == len(POLICIES)


def test_statistics_per_task_are_the_experts_own(experts: Experts, workspace: Workspace) -> None:
    """Weights are averaged, and every task uses its own expert's statistics."""
    merged = scores(run_merge(merge_of(experts, policy="per_task"), workspace=workspace))
    state = average_of(experts, workspace=workspace)
    for expert in experts:
        own = workspace.expert_tensors(expert.id)
        mixed = {name: own[name] if "running" in name else state[name] for name in state}
        assert merged[expert.task] == score_by_hand(mixed, expert=expert, workspace=workspace)


@pytest.mark.parametrize("before", POLICIES)
def test_earlier_merge_changes_no_merge(
    experts: Experts, new_workspace: Callable[[], Workspace], before: str
) -> None:
    """One process gives the same scores as two: the shared backbone keeps nothing."""
    spec = merge_of(experts[1:], policy="recalibrate")
    warm = new_workspace()
    run_merge(merge_of(experts, policy=before), workspace=warm)
    after_it = compute(spec, workspace=warm)
    assert after_it == compute(spec, workspace=new_workspace())


def compute(spec: MergeSpec, *, workspace: Workspace) -> dict[str, Any]:
    """Runs a merge with a new id, so that no committed manifest is returned."""
    compute.seed += 1  # type: ignore[attr-defined]
    seeded = replace(spec, seed=compute.seed)  # type: ignore[attr-defined]
    return scores(run_merge(seeded, workspace=workspace))


compute.seed = 0  # type: ignore[attr-defined]


def test_earlier_trials_change_no_merge(
    experts: Experts,
    new_workspace: Callable[[], Workspace],
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
) -> None:
    """A trial leaves training mode, gradients and changed statistics in the backbone."""
    warm = new_workspace()
    run(make_expert(seed=5, lr=0.3, freeze_batch_norm=True), workspace=warm)
    after_it = compute(merge_of(experts), workspace=warm)
    assert after_it == compute(merge_of(experts), workspace=new_workspace())


def test_missing_expert_is_named(experts: Experts, workspace: Workspace) -> None:
    """The message has the expert's id, and nothing is committed."""
    hyperparameters = replace(experts[0].hyperparameters, seed=77)
    missing = replace(experts[0], hyperparameters=hyperparameters)
    spec = merge_of((missing, experts[1]))
    with pytest.raises(MissingArtifactError, match=missing.id):
        run_merge(spec, workspace=workspace)
    assert workspace.artifacts.find("merge", spec.id) is None


def test_expert_without_weights_is_missing_too(
    experts: Experts,
    workspace: Workspace,
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
) -> None:
    """A diverged expert is committed and has no file to merge."""
    diverged = make_expert(lr=1e30, steps=5)
    run(diverged, workspace=workspace)
    with pytest.raises(MissingArtifactError, match=f"{diverged.id} has no files.*'diverged'"):
        run_merge(merge_of((diverged, experts[1])), workspace=workspace)


def test_manifest_names_base_and_experts_with_their_digests(
    experts: Experts, workspace: Workspace
) -> None:
    """Held-out experts are inputs as well, because their heads determine scores."""
    manifest = run_merge(merge_of(experts[:2], held_out=experts[2:]), workspace=workspace)
    known = {expert.id: workspace.manifest("expert", expert.id).digest for expert in experts}
    base_id = experts[0].base_id
    assert dict(manifest.inputs) == {
        base_id: workspace.manifest("base", base_id).digest,
        **known,
    }
    assert manifest.spec["experts"] == {expert.task: expert.id for expert in experts[:2]}
    assert manifest.files == ()
    assert set(manifest.seconds) == {"merge", "evaluate"}


def test_experts_of_another_backbone_are_refused(
    experts: Experts, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the names that differ; none is skipped."""
    real = workspace.expert_tensors

    def renamed(expert_id: str) -> dict[str, Tensor]:
        return {f"x.{name}": tensor for name, tensor in real(expert_id).items()}

    monkeypatch.setattr(workspace, "expert_tensors", renamed)
    with pytest.raises(MismatchError, match=r"blocks\.0\.0\.bn1\.\w+ is missing") as raised:
        run_merge(merge_of(experts), workspace=workspace)
    for expert in experts:
        assert f"the expert of {expert.task} ({expert.id}): " in str(raised.value)


def test_a_merge_beyond_its_experts_is_a_result_with_lines_in_the_log(
    experts: Experts, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker's log names the tensor and the method; the scores are committed."""
    params = {"density": 1e-3, "scaling": 10.0}
    with caplog.at_level(logging.WARNING):
        assert scores(
            run_merge(merge_of(experts, method="dare", params=params), workspace=workspace)
        )
    assert "merged with dare reaches" in caplog.text


def test_merge_makes_torch_deterministic(experts: Experts, workspace: Workspace) -> None:
    """On CUDA some kernels would otherwise add in any order."""
    run_merge(merge_of(experts), workspace=workspace)
    assert torch.are_deterministic_algorithms_enabled()
