"""The columns of the result table on models whose heads answer together."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from eval.metrics import TaskSums, macro_mean, union_mean
from orchestrator.results.schema import JOINT, JOINT_CALIBRATED, MACRO, UNION
from workers.artifacts.joint_metrics import JointMetrics
from workers.specs.merge import Joint

JOINT_OF: Mapping[Joint, tuple[pa.Field, ...]] = {
    "none": (),
    "plain": (JOINT,),
    "calibrated": (JOINT, JOINT_CALIBRATED),
}
"""The columns for each value of `evaluation.joint`."""
_MEANS = {MACRO: macro_mean, UNION: union_mean}


def joint_columns(joint: JointMetrics | None, *, row: str, tasks: Sequence[str]) -> dict[str, Any]:
    """Returns the columns for a row of a cell; null without joint scores and for other tasks.

    Args:
        joint: The scores of the cell's merge; None if the manifest has none.
        row: The row's task, `macro` or `union`.
        tasks: The tasks of the group.
    """
    if joint is None:
        return {}
    return {
        JOINT.name: _accuracy(joint.tasks, row=row, tasks=tasks),
        JOINT_CALIBRATED.name: _accuracy(joint.calibrated, row=row, tasks=tasks),
    }


def _accuracy(sums: Mapping[str, TaskSums], *, row: str, tasks: Sequence[str]) -> float | None:
    if row in sums:
        return sums[row].accuracy
    if row not in _MEANS or not sums:
        return None
    return _MEANS[row]([sums[task] for task in tasks]).accuracy
