"""Merge jobs with one model per task: methods with task modules, and surgery."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest
from torch import Tensor

from eval.evaluate import evaluate, evaluate_head, features_of
from merge.catalogue import PARAMS
from merge.merge import MergeOptions, merge, merge_tasks
from merge.table import METHODS
from workers.merging import task_models
from workers.merging.merge_job import run_merge
from workers.merging.surgery import train_adapter
from workers.sampling.seeds import derive_seed
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec, SurgerySpec
from workers.workspace import Workspace

Experts = tuple[ExpertSpec, ...]
PER_TASK = [name for name, method in METHODS.items() if method.combine_for_task is not None]
SURGERY = SurgerySpec(rank=4, steps=30, lr=0.01, batch_size=16)


def merge_of(
    experts: Experts,
    *,
    method: str = "average",
    **changes: Any,  # noqa: ANN401 any field
) -> MergeSpec:
    spec = MergeSpec(
        method=method,
        params=asdict(PARAMS[method]()),
        batch_norm="average",
        recalibration_images=0,
        seed=0,
        base_id=experts[0].base_id,
        experts=experts,
        held_out=(),
    )
    return replace(spec, **changes)


def scores(spec: MergeSpec, *, workspace: Workspace) -> dict[str, Any]:
    tasks: dict[str, Any] = run_merge(spec, workspace=workspace).metrics["tasks"]
    return tasks


def load(state: dict[str, Tensor], *, expert: ExpertSpec, workspace: Workspace) -> Any:  # noqa: ANN401 what evaluating needs, by keyword
    backbone = workspace.base_backbone(expert.base_id)
    backbone.module.load_state_dict(state)
    return backbone.module, {
        "split": workspace.split(expert.data_id, "test"),
        "normalization": backbone.normalization,
        "device": workspace.device,
    }


def score_by_hand(
    state: dict[str, Tensor], *, expert: ExpertSpec, workspace: Workspace
) -> dict[str, Any]:
    """Evaluates a state dict under an expert's head without the job's code."""
    module, how = load(state, expert=expert, workspace=workspace)
    return dict(evaluate(module, workspace.expert_head(expert.id), **how).to_json())


def merged_by_hand(
    experts: Experts, *, method: str, workspace: Workspace
) -> Iterator[dict[str, Tensor]]:
    """Yields each task's model, then the model without modules."""
    base = workspace.base_tensors(experts[0].base_id)
    states = [workspace.expert_tensors(expert.id) for expert in experts]
    options = MergeOptions(params=PARAMS[method]())
    named = list(merge_tasks(base, states, tasks=range(len(experts)), options=options))
    for task in range(len(experts)):
        yield {name: tensors[task] for name, tensors in named}
    yield dict(merge(base, states, options=MergeOptions(params=PARAMS[method]())))


@pytest.mark.parametrize("method", PER_TASK)
def test_every_task_is_scored_on_its_own_model_and_held_out_ones_without_modules(
    experts: Experts, workspace: Workspace, method: str
) -> None:
    """Two of three tasks are merged; the reference is merged and evaluated by the test."""
    pair, held_out = experts[:2], experts[2:]
    merged = scores(merge_of(pair, method=method, held_out=held_out), workspace=workspace)
    models = merged_by_hand(pair, method=method, workspace=workspace)
    for expert, state in zip((*pair, *held_out), models, strict=True):
        assert merged[expert.task] == score_by_hand(state, expert=expert, workspace=workspace)


def test_one_expert_scores_what_it_scored_alone(experts: Experts, workspace: Workspace) -> None:
    """EMR returns a single expert up to the rounding of base + (expert - base)."""
    (merged,) = scores(merge_of(experts[:1], method="emr"), workspace=workspace).values()
    own = workspace.manifest("expert", experts[0].id).metrics["test"]
    assert merged["num_correct"] == own["num_correct"]
    assert merged["loss_sum"] == pytest.approx(own["loss_sum"], rel=1e-5)


def test_as_many_models_are_made_at_once_as_memory_allows_and_no_number_depends_on_it(
    experts: Experts, new_workspace: Callable[[], Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three models are built together, then two and one, then each alone."""
    module = new_workspace().base_backbone(experts[0].base_id).module
    one = sum(tensor.nbytes for tensor in module.state_dict().values())
    made: list[list[int]] = []

    def note(*states: Any, tasks: range, **others: Any) -> Any:  # noqa: ANN401 passed on
        made.append(list(tasks))
        return merge_tasks(*states, tasks=tasks, **others)

    monkeypatch.setattr(task_models, "merge_tasks", note)
    found = []
    for seed, limit in enumerate((3 * one, 3 * one - 1, one - 1)):
        monkeypatch.setattr(task_models, "MODEL_BYTES", limit)
        spec = merge_of(experts, method="emr", seed=seed)  # an id of its own
        found.append(scores(spec, workspace=new_workspace()))
    assert made == [[0, 1, 2], [0, 1], [2], [0], [1], [2]]
    assert found[0] == found[1] == found[2]


def test_policies_for_statistics_act_on_every_tasks_model(
    experts: Experts, workspace: Workspace
) -> None:
    """The losses of all five policies differ for every task."""
    policies = ("average", "pooled", "base", "recalibrate", "per_task")
    losses: dict[str, set[float]] = {expert.task: set() for expert in experts}
    for policy in policies:
        images = 24 if policy == "recalibrate" else 0
        spec = merge_of(experts, method="emr", batch_norm=policy, recalibration_images=images)
        for task, sums in scores(spec, workspace=workspace).items():
            losses[task].add(sums["loss_sum"])
    assert {len(each) for each in losses.values()} == {len(policies)}


def test_manifest_has_the_fraction_of_entries_that_the_method_changes(
    experts: Experts, workspace: Workspace
) -> None:
    """An average changes all entries."""
    assert run_merge(merge_of(experts), workspace=workspace).metrics["coverage"] == 1.0


def test_surgery_moves_the_features_of_every_task_towards_its_experts(
    experts: Experts, workspace: Workspace
) -> None:
    """The reference features are adapted by the test; held-out tasks are unchanged."""
    pair, held_out = experts[:2], experts[2:]
    spec = merge_of(pair, held_out=held_out, surgery=SURGERY, seed=3)
    merged = scores(spec, workspace=workspace)
    average = dict(
        merge(
            workspace.base_tensors(spec.base_id),
            [workspace.expert_tensors(expert.id) for expert in pair],
            options=MergeOptions(params=PARAMS["average"]()),
        )
    )
    for expert in pair:
        module, how = load(average, expert=expert, workspace=workspace)
        features = features_of(module, **how)
        own = dict(workspace.expert_tensors(expert.id))
        module, how = load(own, expert=expert, workspace=workspace)
        seed = derive_seed(3, "surgery", expert.task)
        moved = train_adapter(
            features, target=features_of(module, **how), surgery=SURGERY, seed=seed
        ).adapted(features)
        head = workspace.expert_head(expert.id)
        sums = evaluate_head(head, features=moved, labels=how["split"].labels)
        assert merged[expert.task] == sums.to_json()
    (expert,) = held_out
    assert merged[expert.task] == score_by_hand(average, expert=expert, workspace=workspace)


def test_surgery_changes_the_scores_of_the_group(experts: Experts, workspace: Workspace) -> None:
    """This holds for a method with one model and for one with modules of each task."""
    for method in ("average", "emr"):
        plain = scores(merge_of(experts, method=method), workspace=workspace)
        operated = scores(merge_of(experts, method=method, surgery=SURGERY), workspace=workspace)
        for task, sums in plain.items():
            assert operated[task]["loss_sum"] != sums["loss_sum"], (method, task)


@pytest.mark.parametrize("policy", ["per_task", "recalibrate"])
def test_earlier_surgery_changes_no_merge(
    experts: Experts, new_workspace: Callable[[], Workspace], policy: str
) -> None:
    """Neither the shared backbone nor the cached features keep a trace."""
    images = 24 if policy == "recalibrate" else 0
    spec = merge_of(
        experts[1:], batch_norm=policy, recalibration_images=images, surgery=SURGERY, seed=1
    )
    warm = new_workspace()
    run_merge(merge_of(experts, surgery=SURGERY), workspace=warm)
    after_it = scores(spec, workspace=warm)
    under_another_id = replace(spec, held_out=experts[:1])
    fresh = scores(under_another_id, workspace=new_workspace())
    assert after_it == {expert.task: fresh[expert.task] for expert in spec.experts}
