"""Builds one model per task for merging methods that keep modules of each task."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from merge.errors import Names
from merge.merge import MergeOptions, merge_tasks
from workers.models.backbones import Backbone
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.workspace import Workspace

if TYPE_CHECKING:
    from merge.catalogue import BatchNormPolicy

MODEL_BYTES = 1 << 30
"""Upper limit of the models that are built together on the device: 1 GB, but at least one model."""


def expert_names(spec: MergeSpec) -> Names:
    """Returns the names of a merge's base and experts in errors: tasks and ids."""
    experts = [f"the expert of {expert.task} ({expert.id})" for expert in spec.merged]
    return Names(base=f"the base ({spec.base_id})", experts=experts)


def task_models(
    spec: MergeSpec, *, workspace: Workspace
) -> Iterator[tuple[Backbone, tuple[ExpertSpec, ...]]]:
    """Yields the process's backbone once for each task's model, with the task's expert.

    Models that fit `MODEL_BYTES` are built together, so that a method measures the experts once
    for all of them.

    Raises:
        merge.errors.MergeError: The experts do not fit together, or a model is not finite.
    """
    backbone = workspace.base_backbone(spec.base_id, linearised=spec.linearised)
    destination = backbone.module.state_dict()
    num_bytes = sum(tensor.nbytes for tensor in destination.values())
    num_at_once = max(1, MODEL_BYTES // num_bytes)
    for start in range(0, len(spec.experts), num_at_once):
        tasks = range(start, min(start + num_at_once, len(spec.experts)))
        models = _build_models(spec, tasks=tasks, workspace=workspace)
        for task in tasks:
            with torch.no_grad():
                for name, tensor in models.pop(task).items():
                    destination[name].copy_(tensor)
            yield backbone, (spec.experts[task],)


def _build_models(
    spec: MergeSpec, *, tasks: range, workspace: Workspace
) -> dict[int, dict[str, Tensor]]:
    merged = merge_tasks(
        workspace.base_tensors(spec.base_id),
        [workspace.expert_tensors(expert.id) for expert in spec.merged],
        tasks=tasks,
        options=MergeOptions(
            params=workspace.method_params(spec),
            batch_norm=cast("BatchNormPolicy", spec.batch_norm),
            seed=spec.seed,
            num_threads=torch.get_num_threads(),
            device=workspace.device,
        ),
        names=expert_names(spec),
    )
    models: dict[int, dict[str, Tensor]] = {task: {} for task in tasks}
    for name, tensors in merged:
        for task, tensor in zip(tasks, tensors, strict=True):
            models[task][name] = tensor
    return models
