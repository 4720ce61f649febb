"""Chooses the steps of each task's expert among snapshots, before any test image is read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from eval.evaluate import evaluate_head
from eval.metrics import TaskSums
from workers.artifacts.metrics import TriedPoint, TuningMetrics
from workers.merging.choice import best_point, descend
from workers.merging.tuning import validated_points
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.specs.snapshots import STEPS, Snapshots
from workers.workspace import Workspace


def choose_steps(spec: MergeSpec, snapshots: Snapshots, *, workspace: Workspace) -> TuningMetrics:
    """Chooses each task's steps on the validation images of the group; nothing is trained.

    `chosen` is coordinate descent on the loss of the merge (`workers.merging.choice.descend`).
    Parameters that are tuned beside the steps are chosen jointly with them.
    `stopped` is early stopping: for each task the snapshot with the least validation loss of the
    expert itself, the first of equals. Its curve has each expert's own loss at each number of
    steps, and at last the merge of the snapshots that it stops at, at each value of tuned
    parameters.

    Source: early stopping returns the weights of the least validation loss so far (Prechelt 1998);
    merging such experts is the standard practice (Horoi 2025, arXiv 2506.14126, stops earlier than
    that by a rule that we did not find in writing).

    Raises:
        MissingArtifactError: An expert or its images are not in the store.
        NothingToChooseError: No merge of experts with equal steps, no snapshot of a task, or no
            merge of the stopped snapshots has a finite loss.
    """
    group = replace(spec, held_out=())  # methods with task modules would merge again for others

    points: Sequence[Mapping[str, float]] = ({},) if spec.tuning is None else spec.tuning.points()

    def score(steps: Mapping[str, float]) -> Sequence[TriedPoint]:
        validated = validated_points(group.at(steps), points, workspace=workspace)
        return [TriedPoint.of({**steps, **point}, sums=sums) for point, sums in validated]

    if snapshots.rule == "chosen":
        names = [STEPS + task for task in snapshots.tasks]
        found = descend(names=names, counts=snapshots.counts, score=score)
    else:
        own = _own_losses(snapshots, workspace=workspace)
        stops = [best_point(of_task, by="loss").values for of_task in own]
        stopped = {name: steps for each in stops for name, steps in each.items()}
        merged = score(stopped)
        tried = (*(point for of_task in own for point in of_task), *merged)
        chosen = best_point(merged, by="loss").values
        found = TuningMetrics(chosen=chosen, tried=tried, num_images=0)
    images = sum(len(workspace.split(each.data_id, "validation")) for each in spec.experts)
    return replace(found, num_images=images)


def _own_losses(snapshots: Snapshots, *, workspace: Workspace) -> list[list[TriedPoint]]:
    """Returns the scores of each task's snapshots on its validation images, by ascending steps."""
    return [
        [
            TriedPoint.of(
                {STEPS + expert.task: count}, sums=[_validated(expert, workspace=workspace)]
            )
            for count, expert in zip(snapshots.counts, of_task, strict=True)
        ]
        for of_task in zip(*snapshots.experts, strict=True)
    ]


def _validated(expert: ExpertSpec, *, workspace: Workspace) -> TaskSums:
    features = workspace.expert_features(expert, split="validation")
    labels = workspace.split(expert.data_id, "validation").labels
    return evaluate_head(workspace.expert_head(expert.id), features=features, labels=labels)
