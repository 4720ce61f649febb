"""Evaluates a merged model under the heads of its whole group, as if no task were known."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eval.joint import fitted_temperature, joint_sums
from eval.metrics import TaskSums
from workers.artifacts.joint_metrics import JointMetrics
from workers.merging.merged_models import features_under
from workers.models.backbones import Backbone
from workers.specs.merge import MergeSpec
from workers.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class JointScore:
    """A merged model on the images of one task, under the heads of the whole group."""

    plain: TaskSums
    calibrated: TaskSums | None = None
    """The sums with logits divided by their head's temperature; None if none was fitted."""
    temperature: float | None = None
    """The temperature of the task's own head; None if none was fitted."""


@dataclass(frozen=True, kw_only=True)
class JointHeads:
    """The heads of a group, which answer together."""

    heads: Mapping[str, nn.Linear]
    """By task, in the order of the group."""
    temperatures: Mapping[str, float]
    """By task; empty if the specification asks for no calibration."""

    @classmethod
    def of(
        cls, spec: MergeSpec, *, backbone: Backbone, workspace: Workspace
    ) -> "JointHeads | None":
        """Returns the heads of a merge's group; None if the specification asks for no joint scores.

        Calibration costs a pass of the merged model over the group's validation images.
        """
        if spec.joint == "none":
            return None
        heads = {each.task: workspace.expert_head(each.id).eval() for each in spec.experts}
        temperatures: dict[str, float] = {}
        if spec.joint == "calibrated":
            for each in spec.experts:
                split = workspace.split(each.data_id, "validation")
                features = features_under(
                    each, spec=spec, backbone=backbone, split=split, workspace=workspace
                )
                with torch.inference_mode():
                    logits = heads[each.task](features).float()
                temperatures[each.task] = fitted_temperature(logits, labels=split.labels)
        return cls(heads=heads, temperatures=temperatures)

    def score(self, features: Tensor, *, task: str, labels: npt.NDArray[np.int64]) -> JointScore:
        """Returns the scores on the images of a task of the group.

        Shapes:
            features: (images, features).
            labels: (images,).
        """
        with torch.inference_mode():
            logits = {name: head(features).float() for name, head in self.heads.items()}
            place = list(logits).index(task)
            plain = joint_sums(list(logits.values()), place=place, labels=labels)
            if not self.temperatures:
                return JointScore(plain=plain)
            scaled = [each / self.temperatures[name] for name, each in logits.items()]
            return JointScore(
                plain=plain,
                calibrated=joint_sums(scaled, place=place, labels=labels),
                temperature=self.temperatures[task],
            )


def joint_metrics(scores: Mapping[str, JointScore | None]) -> JointMetrics | None:
    """Returns the metrics for the manifest from the scores of each task; None if there are none."""
    found = {task: each for task, each in scores.items() if each is not None}
    if not found:
        return None
    return JointMetrics(
        tasks={task: each.plain for task, each in found.items()},
        calibrated={t: each.calibrated for t, each in found.items() if each.calibrated is not None},
        temperatures={
            task: each.temperature for task, each in found.items() if each.temperature is not None
        },
    )
