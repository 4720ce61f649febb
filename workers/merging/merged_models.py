"""Merges a group's experts into the process's backbone, by the method of a specification."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from eval.evaluate import features_of
from eval.images.split import Split
from merge.merge import MergeOptions, merge
from merge.table import functions_of
from workers.merging.group_probe import GroupProbe
from workers.merging.task_models import expert_names, task_models
from workers.models.backbones import Backbone
from workers.models.batch_norm import copy_statistics, recalibrate
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.workspace import Workspace

if TYPE_CHECKING:
    from merge.catalogue import BatchNormPolicy


def merged_models(
    spec: MergeSpec, *, workspace: Workspace
) -> Iterator[tuple[Backbone, tuple[ExpertSpec, ...]]]:
    """Yields the process's backbone with each model of a merge, and the experts that it serves.

    Most merges are one model. The next model is written into the same backbone.

    Args:
        spec: A merge without tuned parameters.
        workspace: The process's workspace.

    Raises:
        MissingArtifactError: An expert or its weights are not in the store.
        merge.errors.MergeError: The experts do not fit together, or the result is not finite.
    """
    if not spec.card.is_per_task:
        yield merge_into_backbone(spec, workspace=workspace), (*spec.experts, *spec.held_out)
        return
    for backbone, experts in task_models(spec, workspace=workspace):
        recalibrate_if_asked(spec, backbone=backbone, workspace=workspace)
        yield backbone, experts
    if spec.held_out:  # tasks outside the group have no modules of their own
        yield merge_into_backbone(spec, workspace=workspace), spec.held_out


def merge_into_backbone(spec: MergeSpec, *, workspace: Workspace) -> Backbone:
    """Merges into the process's backbone, and returns it.

    A method that keeps modules of each task makes the model without them. A method that reads data
    has finished with the backbone before the merge is written into it.
    """
    backbone = workspace.base_backbone(spec.base_id, linearised=spec.linearised)
    destination = backbone.module.state_dict()
    params = workspace.method_params(spec)
    tensors = merge(
        workspace.base_tensors(spec.base_id),
        [workspace.expert_tensors(expert.id) for expert in spec.merged],
        options=MergeOptions(
            params=params,
            batch_norm=cast("BatchNormPolicy", spec.batch_norm),
            seed=spec.seed,
            probe=GroupProbe(spec, backbone=backbone, workspace=workspace)
            if functions_of(params).learn is not None
            else None,
            num_threads=torch.get_num_threads(),
            device=workspace.device,
        ),
        names=expert_names(spec),
    )
    with torch.no_grad():
        for name, tensor in tensors:
            destination[name].copy_(tensor)
    recalibrate_if_asked(spec, backbone=backbone, workspace=workspace)
    return backbone


def recalibrate_if_asked(spec: MergeSpec, *, backbone: Backbone, workspace: Workspace) -> None:
    """Estimates the running statistics of the backbone's weights again under that policy."""
    if spec.batch_norm == "recalibrate":
        splits = [workspace.split(expert.data_id, "train") for expert in spec.experts]
        images = [split.rows(0, spec.recalibration_images) for split in splits]
        recalibrate(backbone, images=images, device=workspace.device)


def use_task_statistics(
    spec: MergeSpec, *, expert: ExpertSpec, backbone: Backbone, workspace: Workspace
) -> None:
    """Gives a model of a merge the running statistics of a task, if the policy is `per_task`."""
    if spec.batch_norm == "per_task":
        copy_statistics(workspace.expert_tensors(expert.id), module=backbone.module)


def features_under(
    expert: ExpertSpec, *, spec: MergeSpec, backbone: Backbone, split: Split, workspace: Workspace
) -> Tensor:
    """Returns a merged model's features of some images of an expert's task.

    Under the policy `per_task`, the backbone gets the expert's running statistics.

    Shapes: (images, features), float32, on the device.
    """
    use_task_statistics(spec, expert=expert, backbone=backbone, workspace=workspace)
    return features_of(
        backbone.model,
        split=split,
        normalization=backbone.normalization,
        device=workspace.device,
    )
