"""Runs a merge job: merges a group's experts and evaluates the result on every task."""

import time
from contextlib import nullcontext
from dataclasses import dataclass

from eval.evaluate import evaluate_head
from eval.metrics import TaskSums
from merge.errors import NonFiniteMergeError
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import MergeMetrics, TuningMetrics
from workers.artifacts.provenance import Provenance
from workers.merging.choice import NotChosenError, NothingToChooseError
from workers.merging.joint import JointHeads, JointScore, joint_metrics
from workers.merging.kept_weights import KeptWeights
from workers.merging.merged_models import features_under, merged_models
from workers.merging.steps import choose_steps
from workers.merging.surgery import Adapter, train_adapter
from workers.merging.tuning import tune
from workers.merging.weights_digest import WeightsDigest
from workers.models.backbones import Backbone
from workers.models.tied_weights import own_state
from workers.sampling.determinism import compute_deterministically
from workers.sampling.seeds import derive_seed
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.store.scratch import scratch_directory
from workers.workspace import Workspace


def run_merge(
    spec: MergeSpec, *, workspace: Workspace, choice: TuningMetrics | None = None
) -> Manifest:
    """Merges into the process's backbone, evaluates every task, and commits the sums.

    Tuned parameters and steps are chosen on validation images first. The merge at the chosen values
    has the bits of a merge whose specification has these values. The merged weights are stored only
    if the specification says so.

    A candidate of a search whose merge is not finite is committed as `diverged`, without sums: the
    search goes on from what is committed, and nothing else.

    Args:
        spec: The merge.
        workspace: The process's workspace.
        choice: The values of the tuned parameters, where other merges chose them; None otherwise.

    Raises:
        MissingArtifactError: An expert or its weights are not in the store.
        NothingToChooseError: No value that was tried has a finite loss.
        NotChosenError: Other merges choose the values, and no choice is given.
        merge.errors.MergeError: The experts do not fit together, or the result is not finite.
    """
    started = time.monotonic()
    compute_deterministically()
    if spec.shares_choice and choice is None:
        raise NotChosenError("other merges of its study choose its parameters: run the study")
    try:
        return _run_merge(spec, started=started, workspace=workspace, choice=choice)
    except (NonFiniteMergeError, NothingToChooseError):
        if spec.evaluate_on == "test":
            raise
    return workspace.artifacts.commit(
        Provenance.of(spec, kind="merge", inputs=_inputs(spec, workspace=workspace)),
        files={},
        outcome="diverged",
        metrics=MergeMetrics(tasks={}, coverage=0.0).to_json(),
        seconds={"merge": time.monotonic() - started, "evaluate": 0.0},
    )


def _run_merge(
    spec: MergeSpec, *, started: float, workspace: Workspace, choice: TuningMetrics | None
) -> Manifest:
    tuning = choice if choice is not None else _chosen(spec, workspace=workspace)
    fixed = spec if tuning is None else spec.at(tuning.chosen)
    seconds = {} if tuning is None else {"tune": time.monotonic() - started}
    began = time.monotonic()
    scores: dict[str, ScoredTask] = {}
    evaluate_s = 0.0
    digest = WeightsDigest()
    with scratch_directory("merge") if spec.keeps_weights else nullcontext() as folder:
        kept = KeptWeights(spec=fixed, merge_id=spec.id, folder=folder)
        for backbone, experts in merged_models(fixed, workspace=workspace):
            digest.add(own_state(backbone.module))
            kept.add(own_state(backbone.module), experts=experts)
            merged = time.monotonic()
            heads = JointHeads.of(fixed, backbone=backbone, workspace=workspace)
            for expert in experts:
                scored = score_task(
                    fixed, expert=expert, backbone=backbone, workspace=workspace, group_heads=heads
                )
                scores[expert.task] = scored
                digest.add_adapter(scored.adapter)
            evaluate_s += time.monotonic() - merged
        merge_s = time.monotonic() - began - evaluate_s
        return workspace.artifacts.commit(
            Provenance.of(spec, kind="merge", inputs=_inputs(spec, workspace=workspace)),
            files=kept.files,
            metrics=MergeMetrics(
                tasks={task: each.sums for task, each in scores.items()},
                coverage=workspace.coverage(fixed),
                weights_sha256=digest.hexdigest(),
                tuning=tuning,
                experts=_experts_on_test(spec, workspace=workspace),
                joint=joint_metrics({task: each.joint for task, each in scores.items()}),
            ).to_json(),
            seconds={**seconds, "merge": merge_s, "evaluate": evaluate_s},
        )


def _chosen(spec: MergeSpec, *, workspace: Workspace) -> TuningMetrics | None:
    """Returns the choice of a merge on validation images; None if it chooses nothing."""
    if spec.snapshots is not None:
        return choose_steps(spec, spec.snapshots, workspace=workspace)
    return None if spec.tuning is None else tune(spec, spec.tuning, workspace=workspace)


@dataclass(frozen=True, kw_only=True)
class ScoredTask:
    """A merged model on one task."""

    sums: TaskSums
    """Sums over the images of the task that the merge is evaluated on."""
    adapter: Adapter | None
    """The adapter that surgery trained for the task; None without surgery."""
    joint: JointScore | None
    """The scores under the heads of the whole group; None if they were not asked for."""


def score_task(
    spec: MergeSpec,
    *,
    expert: ExpertSpec,
    backbone: Backbone,
    workspace: Workspace,
    group_heads: JointHeads | None = None,
) -> ScoredTask:
    """Evaluates a model of a merge on the task of an expert, under the expert's head.

    With `group_heads`, tasks of the group are evaluated under all of these heads together as well.

    The backbone has the task's own running statistics afterwards, if the policy is `per_task`.
    """
    split = workspace.split(expert.data_id, spec.evaluate_on)
    features = features_under(
        expert, spec=spec, backbone=backbone, split=split, workspace=workspace
    )
    adapter = None
    if spec.surgery is not None and expert in spec.experts:
        adapter = train_adapter(
            features,
            target=workspace.expert_features(expert, split=spec.evaluate_on),
            surgery=spec.surgery,
            seed=derive_seed(spec.seed, "surgery", expert.task),
        )
        features = adapter.adapted(features)
    head = workspace.expert_head(expert.id)
    sums = evaluate_head(head, features=features, labels=split.labels)
    joint = None
    if group_heads is not None and expert in spec.experts:
        joint = group_heads.score(features, task=expert.task, labels=split.labels)
    return ScoredTask(sums=sums, adapter=adapter, joint=joint)


def _experts_on_test(
    spec: MergeSpec, *, workspace: Workspace
) -> dict[str, tuple[TaskSums, TaskSums]]:
    """Evaluates the experts whose own manifests lack test scores, and the base under their heads.

    They are the experts of a search, at its end. The backbone has other weights afterwards.
    """
    found: dict[str, tuple[TaskSums, TaskSums]] = {}
    for expert in (*spec.experts, *spec.held_out):
        if (expert.evaluate_on, spec.evaluate_on) != ("validation", "test"):
            continue
        head = workspace.expert_head(expert.id)
        labels = workspace.split(expert.data_id, "test").labels
        own = workspace.expert_features(expert)
        base = workspace.base_features(expert.base_id, expert.data_id)
        found[expert.task] = (
            evaluate_head(head, features=own, labels=labels),
            evaluate_head(head, features=base, labels=labels),
        )
    return found


def _inputs(spec: MergeSpec, *, workspace: Workspace) -> dict[str, str]:
    inputs = {each.id: workspace.manifest("expert", each.id).digest for each in spec.members}
    return {spec.base_id: workspace.manifest("base", spec.base_id).digest, **inputs}
