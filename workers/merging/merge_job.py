"""Runs a merge job: merges a group's experts and evaluates the result on every task."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch

from eval.evaluate import evaluate_head, features_of
from eval.metrics import TaskSums
from merge.catalogue import BatchNormPolicy, parse_params
from merge.merge import MergeOptions, coverage, merge
from merge.table import METHODS
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import MergeMetrics
from workers.artifacts.provenance import Provenance
from workers.merging.group_probe import GroupProbe
from workers.merging.surgery import Adapter, train_adapter
from workers.merging.task_models import expert_names, task_models
from workers.merging.weights_digest import WeightsDigest
from workers.models.backbones import Backbone
from workers.models.batch_norm import copy_statistics, recalibrate
from workers.models.tied_weights import own_state
from workers.sampling.determinism import compute_deterministically
from workers.sampling.seeds import derive_seed
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.workspace import Workspace


def run_merge(spec: MergeSpec, *, workspace: Workspace) -> Manifest:
    """Merges into the process's backbone, evaluates every task, and commits the sums.

    The merged weights are not stored.

    Raises:
        MissingArtifactError: An expert or its weights are not in the store.
        merge.errors.MergeError: The experts do not fit together, or the result is not finite.
    """
    started = time.monotonic()
    compute_deterministically()
    sums: dict[str, TaskSums] = {}
    evaluate_s = 0.0
    digest = WeightsDigest()
    for backbone, experts in merged_models(spec, workspace=workspace):
        digest.add(own_state(backbone.module))
        merged = time.monotonic()
        for expert in experts:
            scored = score_task(spec, expert=expert, backbone=backbone, workspace=workspace)
            sums[expert.task] = scored.sums
            digest.add_adapter(scored.adapter)
        evaluate_s += time.monotonic() - merged
    merge_s = time.monotonic() - started - evaluate_s
    params = parse_params(spec.method, spec.params)
    covered = coverage(workspace.base_tensors(spec.base_id), params=params)
    return workspace.artifacts.commit(
        Provenance.of(spec, kind="merge", inputs=_inputs(spec, workspace=workspace)),
        files={},
        metrics=MergeMetrics(
            tasks=sums, coverage=covered, weights_sha256=digest.hexdigest()
        ).to_json(),
        seconds={"merge": merge_s, "evaluate": evaluate_s},
    )


def merged_models(
    spec: MergeSpec, *, workspace: Workspace
) -> Iterator[tuple[Backbone, tuple[ExpertSpec, ...]]]:
    """Yields the backbone with each model of the merge, and the experts whose tasks it serves.

    Raises:
        MissingArtifactError: An expert or its weights are not in the store.
        merge.errors.MergeError: The experts do not fit together, or the result is not finite.
    """
    if METHODS[spec.method].combine_for_task is None:
        yield _merge(spec, workspace=workspace), (*spec.experts, *spec.held_out)
        return
    for backbone, experts in task_models(spec, workspace=workspace):
        _recalibrate(spec, backbone=backbone, workspace=workspace)
        yield backbone, experts
    if spec.held_out:  # tasks outside the group have no modules of their own
        yield _merge(spec, workspace=workspace), spec.held_out


def _merge(spec: MergeSpec, *, workspace: Workspace) -> Backbone:
    backbone = workspace.base_backbone(spec.base_id, linearised=spec.linearised)
    destination = backbone.module.state_dict()
    tensors = merge(
        workspace.base_tensors(spec.base_id),
        [workspace.expert_tensors(expert.id) for expert in spec.experts],
        options=MergeOptions(
            params=parse_params(spec.method, spec.params),
            batch_norm=cast("BatchNormPolicy", spec.batch_norm),
            seed=spec.seed,
            probe=_probe(spec, backbone=backbone, workspace=workspace),
            num_threads=torch.get_num_threads(),
            device=workspace.device,
        ),
        names=expert_names(spec),
    )
    with torch.no_grad():
        for name, tensor in tensors:
            destination[name].copy_(tensor)
    _recalibrate(spec, backbone=backbone, workspace=workspace)
    return backbone


def _recalibrate(spec: MergeSpec, *, backbone: Backbone, workspace: Workspace) -> None:
    if spec.batch_norm == "recalibrate":
        splits = [workspace.split(expert.data_id, "train") for expert in spec.experts]
        images = [split.rows(0, spec.recalibration_images) for split in splits]
        recalibrate(backbone, images=images, device=workspace.device)


def _probe(spec: MergeSpec, *, backbone: Backbone, workspace: Workspace) -> GroupProbe | None:
    """Returns the probe of a method that reads data, or None.

    The method has finished with the backbone before the merge is written into it.
    """
    if METHODS[spec.method].learn is None:
        return None
    return GroupProbe(spec, backbone=backbone, workspace=workspace)


@dataclass(frozen=True, kw_only=True)
class ScoredTask:
    """A merged model on one task."""

    sums: TaskSums
    """Sums over the task's test images."""
    adapter: Adapter | None
    """The adapter that surgery trained for the task; None without surgery."""


def score_task(
    spec: MergeSpec, *, expert: ExpertSpec, backbone: Backbone, workspace: Workspace
) -> ScoredTask:
    """Evaluates a model of a merge on the task of an expert, under the expert's head.

    The backbone has the task's own running statistics afterwards, if the policy is `per_task`.
    """
    use_task_statistics(spec, expert=expert, backbone=backbone, workspace=workspace)
    split = workspace.split(expert.data_id, "test")
    features = features_of(
        backbone.model,
        split=split,
        normalization=backbone.normalization,
        device=workspace.device,
    )
    adapter = None
    if spec.surgery is not None and expert in spec.experts:
        adapter = train_adapter(
            features,
            target=workspace.expert_features(expert),
            surgery=spec.surgery,
            seed=derive_seed(spec.seed, "surgery", expert.task),
        )
        features = adapter.adapted(features)
    head = workspace.expert_head(expert.id)
    sums = evaluate_head(head, features=features, labels=split.labels)
    return ScoredTask(sums=sums, adapter=adapter)


def use_task_statistics(
    spec: MergeSpec, *, expert: ExpertSpec, backbone: Backbone, workspace: Workspace
) -> None:
    """Gives a model of a merge the running statistics of a task, if the policy is `per_task`."""
    if spec.batch_norm == "per_task":
        copy_statistics(workspace.expert_tensors(expert.id), module=backbone.module)


def _inputs(spec: MergeSpec, *, workspace: Workspace) -> dict[str, str]:
    experts = (*spec.experts, *spec.held_out)
    inputs = {expert.id: workspace.manifest("expert", expert.id).digest for expert in experts}
    return {spec.base_id: workspace.manifest("base", spec.base_id).digest, **inputs}
