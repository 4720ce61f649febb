"""Writes the descriptions of MLflow runs, which MLflow shows at the top of their pages."""

import math
from collections.abc import Mapping

from orchestrator.plan.cells import Cell
from orchestrator.plan.multi_task import MultiTaskCell
from orchestrator.results.means import SettingMean
from workers.artifacts.metrics import ExpertMetrics


def expert_note(task: str, *, setting: str, measured: ExpertMetrics) -> str:
    """Returns the description of an expert: its task, its setting and its accuracy."""
    what = f"Expert of {task} at {setting}."
    if measured.test is None or measured.base is None:
        return f"{what} It has diverged: its weights are not finite."
    return (
        f"{what} Accuracy {_percent(measured.test.accuracy)} on its own test images; the base with "
        f"the same head {_percent(measured.base.accuracy)}."
    )


def merge_note(cell: Cell, *, scores: Mapping[str, float]) -> str:
    """Returns the description of a merge: method, tasks, setting, macro accuracy and gain."""
    return (
        f"{cell.label} of {', '.join(cell.group.tasks)} (group {cell.group.name}) at "
        f"{cell.setting.name}. Macro accuracy {_percent(scores['macro_accuracy'])}, gain "
        f"{_points(scores['macro_gain'])} over the base with the same heads."
    )


def multi_task_note(cell: MultiTaskCell, *, scores: Mapping[str, float]) -> str:
    """Returns the description of a multi-task model: tasks, setting, macro accuracy and gain."""
    return (
        f"One model trained on {', '.join(cell.group.tasks)} together (group {cell.group.name}) at "
        f"{cell.setting.name}. Macro accuracy {_percent(scores['macro_accuracy'])}, gain "
        f"{_points(scores['macro_gain'])} over the base with the experts' heads."
    )


def setting_note(mean: SettingMean) -> str:
    """Returns the description of a method at a setting: means over its groups."""
    groups = "1 group" if mean.num_groups == 1 else f"{mean.num_groups:,} groups"
    return (
        f"{mean.method} at {mean.setting}, mean over {groups}. Macro accuracy "
        f"{_percent(mean.macro.accuracy.mean)}, gain {_points(mean.macro.gain.mean)} over the base "
        "with the same heads."
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %" if math.isfinite(fraction) else "not finite"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+z.1f} points" if math.isfinite(fraction) else "not finite"
