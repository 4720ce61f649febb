"""Chooses parameters of a merge on validation images, before any test image is read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from eval.evaluate import evaluate_head
from eval.metrics import TaskSums
from merge.catalogue import SCALE_ONE_VECTOR
from merge.errors import NonFiniteMergeError
from merge.one_tensor import is_for_method
from merge.weight import Weight
from workers.artifacts.metrics import TriedPoint, TuningMetrics
from workers.merging.choice import best_point
from workers.merging.merged_models import (
    features_under,
    merge_into_backbone,
    merged_models,
    recalibrate_if_asked,
)
from workers.models.backbones import Backbone
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.specs.tuning import TuningSpec
from workers.workspace import Workspace

_SCALING = "scaling"
Point = Mapping[str, float]


def tune(spec: MergeSpec, tuning: TuningSpec, *, workspace: Workspace) -> TuningMetrics:
    """Merges at every combination of values, and chooses on the validation images of the group.

    The objective is the mean over the group's tasks, each under its own head. It is the loss by
    default: a few dozen images move an accuracy in steps of a percent and more, so that many values
    tie, while the loss tells them apart. Surgery comes after the choice.

    Cost: a pass over the validation images for each combination. Combinations that differ only in
    `scaling` share one merge, with its thresholds and masks, for the methods of
    `SCALE_ONE_VECTOR`; others merge again.

    Raises:
        MissingArtifactError: An expert or its images are not in the store.
        NothingToChooseError: No combination has a finite loss.
    """
    group = replace(spec, held_out=())  # methods with task modules would merge again for others
    tried = [
        TriedPoint.of(point, sums=sums)
        for point, sums in validated_points(group, tuning.points(), workspace=workspace)
    ]
    images = sum(len(workspace.split(each.data_id, "validation")) for each in spec.experts)
    best = best_point(tried, by=tuning.by)
    return TuningMetrics(chosen=best.values, tried=tuple(tried), num_images=images)


def validated_points(
    spec: MergeSpec, points: Sequence[Point], *, workspace: Workspace
) -> Iterator[tuple[Point, Sequence[TaskSums]]]:
    """Yields every combination with its sums on the tasks; no sums for a merge that is not finite.

    The order is that of the combinations; an empty one merges at the specification's own values.
    Combinations that differ only in `scaling` share one merge where the method allows it.
    """
    if spec.method not in SCALE_ONE_VECTOR or _SCALING not in points[0]:
        for point in points:
            yield point, validation_sums(spec.at(point), workspace=workspace)
        return
    by_rest: dict[tuple[tuple[str, float], ...], list[Point]] = {}
    for point in points:
        rest = tuple((name, value) for name, value in point.items() if name != _SCALING)
        by_rest.setdefault(rest, []).append(point)
    found: dict[tuple[tuple[str, float], ...], Sequence[TaskSums]] = {}
    for alike in by_rest.values():
        unit = spec.at({**alike[0], _SCALING: 1.0})
        scalings = [point[_SCALING] for point in alike]
        for point, sums in zip(alike, _scaled(unit, scalings, workspace=workspace), strict=True):
            found[tuple(point.items())] = sums
    yield from ((point, found[tuple(point.items())]) for point in points)


def validation_sums(spec: MergeSpec, *, workspace: Workspace) -> Sequence[TaskSums]:
    """Returns the sums of a merge on the validation images of its group's tasks."""
    sums: dict[str, TaskSums] = {}
    try:
        for backbone, served in merged_models(spec, workspace=workspace):
            for expert in served:
                sums[expert.task] = _validate(spec, expert, backbone=backbone, workspace=workspace)
    except NonFiniteMergeError:
        return ()
    return [sums[expert.task] for expert in spec.experts]


def _scaled(
    unit: MergeSpec, scalings: Sequence[float], *, workspace: Workspace
) -> Iterator[Sequence[TaskSums]]:
    """Yields the sums at each scaling, from the merge at scaling 1.

    The weights differ from those of a merge at that scaling by rounding.
    """
    backbone = merge_into_backbone(unit, workspace=workspace)
    merged, base = backbone.module.state_dict(), workspace.base_tensors(unit.base_id)
    start = {
        name: base[name].to(merged[name])
        for name in base
        if is_for_method(Weight(name=name, base_state=base, expert_states=()))
    }
    vectors = {name: merged[name] - tensor for name, tensor in start.items()}
    for scaling in scalings:
        with torch.no_grad():
            for name, vector in vectors.items():
                torch.add(start[name], vector, alpha=scaling, out=merged[name])
        recalibrate_if_asked(unit, backbone=backbone, workspace=workspace)
        yield [
            _validate(unit, expert, backbone=backbone, workspace=workspace)
            for expert in unit.experts
        ]


def _validate(
    spec: MergeSpec, expert: ExpertSpec, *, backbone: Backbone, workspace: Workspace
) -> TaskSums:
    split = workspace.split(expert.data_id, "validation")
    features = features_under(
        expert, spec=spec, backbone=backbone, split=split, workspace=workspace
    )
    head = workspace.expert_head(expert.id)
    return evaluate_head(head, features=features, labels=split.labels)
