"""The scores of a merge whose heads answer together, as its manifest has them; free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from eval.metrics import TaskSums


@dataclass(frozen=True, kw_only=True)
class JointMetrics:
    """A merge where the task of an image is not known: the largest logit of all heads decides."""

    tasks: Mapping[str, TaskSums]
    """The sums over the images of each task of the group."""
    calibrated: Mapping[str, TaskSums] = field(default_factory=dict)
    """The same with logits divided by their head's temperature; empty if none is fitted."""
    temperatures: Mapping[str, float] = field(default_factory=dict)
    """By task, fitted on the labelled validation images of the head's task; empty if not fitted."""

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        fields: dict[str, Any] = {"tasks": _to_json(self.tasks)}
        if self.temperatures:
            fields["calibrated"] = _to_json(self.calibrated)
            fields["temperatures"] = dict(self.temperatures)
        return fields

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Returns the metrics that `to_json` turned into plain values."""
        return cls(
            tasks=_from_json(values["tasks"]),
            calibrated=_from_json(values.get("calibrated", {})),
            temperatures=values.get("temperatures", {}),
        )


def _to_json(tasks: Mapping[str, TaskSums]) -> dict[str, Any]:
    return {task: sums.to_json() for task, sums in tasks.items()}


def _from_json(tasks: Mapping[str, Any]) -> dict[str, TaskSums]:
    return {task: TaskSums.from_json(sums) for task, sums in tasks.items()}
