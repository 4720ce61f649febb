"""Runs one merge job: merges a group's experts and evaluates on the joint test set."""

import time
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from eval.evaluate import evaluate, input_batches
from eval.metrics import TaskSums
from merge.merge import merge
from merge.params import BatchNormPolicy, parse_params
from workers.backbones import Backbone
from workers.manifests import Manifest
from workers.specs import VERSIONS, ExpertSpec, MergeSpec, spec_to_json
from workers.workspace import Workspace

RUNNING_STATISTICS = (".running_mean", ".running_var")


def run_merge(spec: MergeSpec, *, workspace: Workspace) -> Manifest:
    """Merges straight into the process's backbone, evaluates every task, and commits the sums.

    Raises:
        MissingArtifactError: An expert, or its weights, are not in the store.
        merge.errors.MergeError: The experts do not fit together or the result is not finite.
    """
    started = time.monotonic()
    torch.use_deterministic_algorithms(mode=True)
    backbone = _merge(spec, workspace=workspace)
    merged = time.monotonic()
    sums = {
        expert.task: _evaluate(spec, expert=expert, backbone=backbone, workspace=workspace)
        for expert in (*spec.experts, *spec.held_out)
    }
    finished = time.monotonic()
    return workspace.artifacts.commit(
        "merge",
        spec.id,
        version=VERSIONS["merge"],
        spec=spec_to_json(spec),
        inputs=_inputs(spec, workspace=workspace),
        files={},
        outcome="done",
        metrics={"tasks": {task: total.to_json() for task, total in sums.items()}},
        seconds={"merge": merged - started, "evaluate": finished - merged},
    )


def _merge(spec: MergeSpec, *, workspace: Workspace) -> Backbone:
    backbone = workspace.base_backbone(spec.base_id)
    destination = backbone.module.state_dict()
    tensors = merge(
        workspace.base_tensors(spec.base_id),
        [workspace.expert_tensors(expert.id) for expert in spec.experts],
        params=parse_params(spec.method, spec.params),
        batch_norm=cast("BatchNormPolicy", spec.batch_norm),
        seed=spec.seed,
    )
    with torch.no_grad():
        for name, tensor in tensors:
            destination[name].copy_(tensor)
    if spec.batch_norm == "recalibrate":
        _recalibrate(spec, backbone=backbone, workspace=workspace)
    return backbone


def _recalibrate(spec: MergeSpec, *, backbone: Backbone, workspace: Workspace) -> None:
    """Estimates BatchNorm statistics anew on unlabelled training images of the group's tasks.

    Plain averages over all batches; every task gives the same number of images, in turn.
    """
    norms = [
        module
        for module in backbone.module.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 no other name
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    backbone.module.train()
    with torch.no_grad():
        for expert in spec.experts:
            images = workspace.split(expert.data_id, "train").rows(0, spec.recalibration_images)
            for inputs in input_batches(
                images, normalization=backbone.normalization, device=workspace.device
            ):
                backbone.module(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _evaluate(
    spec: MergeSpec, *, expert: ExpertSpec, backbone: Backbone, workspace: Workspace
) -> TaskSums:
    if spec.batch_norm == "per_task":
        _copy_statistics(workspace.expert_tensors(expert.id), module=backbone.module)
    return evaluate(
        backbone.module,
        workspace.expert_head(expert.id),
        split=workspace.split(expert.data_id, "test"),
        normalization=backbone.normalization,
        device=workspace.device,
    )


def _copy_statistics(tensors: Mapping[str, Tensor], *, module: nn.Module) -> None:
    """Gives the merged weights one expert's running statistics, for its own task."""
    destination = module.state_dict()
    with torch.no_grad():
        for name in destination:
            if name.endswith(RUNNING_STATISTICS):
                destination[name].copy_(tensors[name])


def _inputs(spec: MergeSpec, *, workspace: Workspace) -> dict[str, Any]:
    experts = (*spec.experts, *spec.held_out)
    inputs = {expert.id: workspace.manifest("expert", expert.id).digest for expert in experts}
    return {spec.base_id: workspace.manifest("base", spec.base_id).digest, **inputs}
