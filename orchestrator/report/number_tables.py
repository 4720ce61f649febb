"""Writes the tables of numbers: per axis, per group and per task."""

from collections.abc import Iterable, Sequence

from orchestrator.report.focus import Focus
from orchestrator.report.markup import HtmlCell, name_cell, table
from orchestrator.report.quantities import MEAN_NAMES, fullest
from orchestrator.report.style import Styles
from orchestrator.report.wording import MISSING, loss_spread, percent, percent_spread
from orchestrator.results.means import Metrics, Row, SettingMean, Spread, spread
from orchestrator.results.schema import MEANS
from orchestrator.results.whole import best_accuracy

_JOINT_WORDS = {
    "joint_accuracy": "joint accuracy, %",
    "joint_calibrated_accuracy": "calibrated on labelled validation, %",
}
_METRICS = ("accuracy, %", "gain, points", "normalized, %", "loss")
_OVER = (("", 4), *((MEAN_NAMES[mean], len(_METRICS)) for mean in MEANS))


def axis_table(settings: Sequence[SettingMean], *, styles: Styles) -> str:
    """Returns mean ± standard deviation of base, experts and methods at every value of an axis."""
    rows: list[list[HtmlCell]] = []
    joint = _joint_of(settings)
    for value, reference in fullest(settings).items():
        members = [s for s in settings if s.value == value]
        best = best_accuracy(members)
        block = [
            _reference_row(reference, model="base", name="base, same heads"),
            _reference_row(reference, model="expert", name="experts"),
            *(_method_row(s, styles=styles, best=best) for s in members),
        ]
        for cells, setting in zip(block, (None, None, *members), strict=True):
            cells.extend(HtmlCell(text=_joint(setting, name)) for name in joint)
        block[0].insert(0, name_cell(value, css="value", num_rows=len(block)))
        rows += block
    over = (*_OVER, ("task not known", len(joint))) if joint else _OVER
    columns = (settings[0].axis, "method", "data", "groups", *_METRICS, *_METRICS)
    return table((*columns, *(_JOINT_WORDS[name] for name in joint)), rows, over=over)


def _joint_of(settings: Sequence[SettingMean]) -> list[str]:
    """Returns the joint scores that the settings of a study have."""
    return [name for name in _JOINT_WORDS if getattr(settings[0].macro, name) is not None]


def _joint(setting: SettingMean | None, name: str) -> str:
    """Returns a joint score as text, the mean over tasks; no text for the base and the experts."""
    found: Spread | None = getattr(setting.macro, name) if setting is not None else None
    return "" if found is None else percent_spread(found)


def group_table(focus: Focus, *, styles: Styles) -> str:
    """Returns the macro accuracy of every group at one setting, and the tasks of the group."""
    rows = []
    tasks = _tasks_by_group(focus)
    for group, by_method in focus.macro_by_group().items():
        shared = next(iter(by_method.values()))
        rows.append(
            [
                name_cell(group),
                HtmlCell(text=", ".join(sorted(tasks[group])), css="text"),
                HtmlCell(text=percent(shared["base_accuracy"])),
                HtmlCell(text=percent(shared["expert_accuracy"])),
                *(HtmlCell(text=_accuracy(by_method.get(method))) for method in styles),
            ]
        )
    return table(("group", "tasks", "base, same heads", "experts", *styles), rows)


def task_table(focus: Focus, *, styles: Styles) -> str:
    """Returns the accuracy on every task at one setting, over the groups that contain the task."""
    rows: dict[tuple[bool, str], list[Row]] = {}
    for row in focus.rows:
        if row["task"] not in MEANS:
            rows.setdefault((bool(row["held_out"]), row["task"]), []).append(row)
    cells = []
    for (held_out, task), members in sorted(rows.items()):
        of_group = {row["group"]: row for row in members}
        cells.append(
            [
                name_cell(f"{task} (held out)" if held_out else task),
                HtmlCell(text=str(len(of_group))),
                _mean_cell(of_group.values(), "base_accuracy"),
                _mean_cell([] if held_out else of_group.values(), "expert_accuracy"),
                *(
                    _method_cell([r for r in members if r["method"] == method], groups=of_group)
                    for method in styles
                ),
            ]
        )
    return table(("task", "groups", "base, same heads", "experts", *styles), cells)


def _mean_cell(rows: Iterable[Row], column: str) -> HtmlCell:
    return HtmlCell(text=percent(spread(row[column] for row in rows).mean))


def _method_cell(rows: Sequence[Row], *, groups: Iterable[str]) -> HtmlCell:
    """Returns the accuracy over the groups, with their number if the method lacks some of them."""
    found = {row["group"]: row["accuracy"] for row in rows}
    return HtmlCell(text=percent_spread(spread(found.get(group) for group in groups if found)))


def _method_row(setting: SettingMean, *, styles: Styles, best: float) -> list[HtmlCell]:
    css = "best" if setting.macro.accuracy.mean == best else ""
    head = name_cell(setting.method, swatch=styles[setting.method].color)
    groups = HtmlCell(text=str(setting.num_groups))
    return [head, HtmlCell(text=setting.use, css="text"), groups, *_metric_cells(setting, css)]


def _metric_cells(setting: SettingMean, css: str) -> list[HtmlCell]:
    cells: list[HtmlCell] = []
    for metrics in (setting.macro, setting.union):
        cells += [
            HtmlCell(text=percent_spread(metrics.accuracy), css=css),
            HtmlCell(text=percent_spread(metrics.gain, signed=True)),
            HtmlCell(text=percent_spread(metrics.normalized_accuracy)),
            HtmlCell(text=loss_spread(metrics.loss)),
        ]
        css = ""
    return cells


def _reference_row(setting: SettingMean, *, model: str, name: str) -> list[HtmlCell]:
    groups = HtmlCell(text=str(setting.num_groups))
    cells = [name_cell(name, css="reference"), HtmlCell(text="", css="text"), groups]
    for metrics in (setting.macro, setting.union):
        accuracy, loss = _of_model(metrics, model)
        cells += [HtmlCell(text=text) for text in (accuracy, "", "", loss)]
    return cells


def _of_model(metrics: Metrics, model: str) -> tuple[str, str]:
    if model == "base":
        return percent_spread(metrics.base_accuracy), loss_spread(metrics.base_loss)
    return percent_spread(metrics.expert_accuracy), loss_spread(metrics.expert_loss)


def _accuracy(row: Row | None) -> str:
    return MISSING if row is None else percent(row["accuracy"])


def _tasks_by_group(focus: Focus) -> dict[str, set[str]]:
    tasks: dict[str, set[str]] = {row["group"]: set() for row in focus.rows}
    for row in focus.rows:
        if row["task"] not in MEANS and not row["held_out"]:
            tasks[row["group"]].add(row["task"])
    return tasks
