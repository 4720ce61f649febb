"""Fills the tables of paired comparisons and of laws."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eval.counts import first_names
from orchestrator.plan.settings import NUM_TASKS_AXIS
from orchestrator.results.schema import MACRO, MEANS
from orchestrator.theory.features import MEASURED
from orchestrator.theory.laws import AxisLaws, Estimate, fit_axis
from orchestrator.theory.pairs import MAX_MEMBERS, Comparison, compare_methods, compare_values
from orchestrator.theory.panel import Panel, panels
from orchestrator.theory.table_rows import Columns, Note, Part, interval_columns, or_none

_PLACE = ("setting", "method")
FIT = "fit"
"""Label of numbers that were fitted to measured ones."""
ALL_TASKS = "all tasks"
"""The mean over the group's tasks and the held-out ones, which are the same for all groups."""
_MAX_NAMED = 3


def pair_part(every: Sequence[Panel]) -> Part:
    """Returns the paired comparisons of settings and of methods."""
    found = [each for mean in MEANS for panel in every for each in compare_values(panel, mean=mean)]
    if len(every) > 1:
        found += [each for mean in MEANS for each in compare_methods(every, mean=mean)]
    return Part(rows=list(map(_pair_columns, found)), notes=list(_pair_notes(every)))


def external_pair_rows(results: pa.Table, external: pa.Table) -> Iterator[Columns]:
    """Yields the comparisons of each external model with the study's methods.

    They are made at the settings and in the groups that the model was scored on.
    """
    names = dict.fromkeys(zip(*(external[name].to_pylist() for name in _PLACE), strict=True))
    for setting, label in names:
        mine = external.filter((pc.field("setting") == setting) & (pc.field("method") == label))
        of_setting = results.filter(pc.field("setting") == setting)
        in_groups = of_setting.filter(pc.field("group").isin(mine["group"].unique()))
        together = pa.concat_tables([in_groups, mine.select(in_groups.column_names)])
        for mean in MEANS:
            for found in compare_methods(panels(together), mean=mean):
                if label in (found.best, found.other):
                    yield _pair_columns(replace(found, family=f"{setting}, with {label}"))


def law_parts(every: Sequence[Panel], *, of_all_tasks: Sequence[Panel]) -> tuple[Part, Part]:
    """Returns the laws of every method along every axis, then their exponents and optima.

    Args:
        every: The panels of the methods.
        of_all_tasks: The same with held-out tasks, for the axis of the number of tasks; empty if
            the study has none.
    """
    wanted = [(panel, axis, mean, mean) for panel in every for axis in panel.axes for mean in MEANS]
    wanted += [
        (panel, NUM_TASKS_AXIS, MACRO, ALL_TASKS)
        for panel in of_all_tasks
        if NUM_TASKS_AXIS in panel.axes
    ]
    laws: list[tuple[AxisLaws, str]] = []
    notes: list[Note] = []
    for panel, axis, mean, name in wanted:
        found = fit_axis(panel, axis, mean=mean)
        if isinstance(found, AxisLaws):
            laws.append((found, name))
        else:
            notes.append(Note("laws", f"no law along {axis}: {found}"))
    forms = [row | {"mean": name} for each, name in laws for row in _law_columns(each)]
    estimates = [row | {"mean": name} for each, name in laws for row in _estimate_columns(each)]
    return Part(rows=forms, notes=notes), Part(rows=estimates)


def _pair_notes(every: Sequence[Panel]) -> Iterator[Note]:
    topic = "paired comparisons"
    if not every:
        return
    first = every[0]
    if len(every) == 1:
        yield Note(topic, "the study has one method, so that no methods are compared")
    yield from (Note(topic, text) for text in lacking_texts(every))
    if all(len(values) == 1 for values in first.axes.values()):
        yield Note(topic, "the study has one setting, so that no settings are compared")
    for axis, values in first.axes.items():
        if len(values) > MAX_MEMBERS:
            yield Note(topic, f"{axis} has more than {MAX_MEMBERS} values: none are compared")
        elif len(values) > 1 and not _share_groups(first, list(values.values())):
            yield Note(topic, f"the values of {axis} have no groups in common to be compared in")


def lacking_texts(every: Sequence[Panel]) -> Iterator[str]:
    """Yields the settings at which a method has no finite loss, for each method with any."""
    for panel in every:
        if names := _without_loss(panel):
            listed = first_names(names, most=_MAX_NAMED)
            yield f"{panel.method} has no finite loss at {listed}: left out there"


def _without_loss(panel: Panel) -> list[str]:
    """Returns the settings at which no group has a finite loss."""
    losses = panel.group_means("loss")
    return [
        name for name, row in zip(panel.settings, losses, strict=True) if not np.isfinite(row).any()
    ]


def _share_groups(panel: Panel, settings: list[int]) -> bool:
    known = np.isfinite(panel.at(settings).group_means("loss"))
    return bool(known[known.any(axis=1)].all(axis=0).any())


def _pair_columns(found: Comparison) -> Columns:
    intervals = {"groups": found.over_groups, "tasks": found.over_tasks}
    return {
        "kind": found.kind,
        "family": found.family,
        "axis": found.axis,
        "mean": found.mean,
        "quantity": found.quantity,
        "label": MEASURED,
        "best": found.best,
        "other": found.other,
        "difference": found.difference,
        **interval_columns(intervals, of=found.interval),
        "num_better": found.num_better,
        "num_groups": found.num_groups,
        "p_value": or_none(found.p_value),
        "p_holm": or_none(found.p_holm),
        "num_pairs": found.num_pairs,
    }


def _law_columns(found: AxisLaws) -> Iterator[Columns]:
    for law in found.laws:
        yield {
            "axis": found.axis,
            "method": found.method,
            "label": FIT,
            "form": law.form.name,
            "formula": law.form.formula,
            "params": list(law.params),
            "error_in_sample": law.error_in_sample,
            "error_held_out": or_none(law.error_held_out),
            "num_values": law.num_values,
            "num_groups": found.num_groups,
            "values": found.values.tolist(),
            "losses": found.losses.tolist(),
            "is_preferred": law.is_preferred,
            "is_description": law.is_description,
        }


def _estimate_columns(found: AxisLaws) -> Iterator[Columns]:
    estimates = {"exponent": (found.exponent, ""), "optimum": (found.optimum, found.no_optimum)}
    for quantity, (estimate, note) in estimates.items():
        yield {
            "axis": found.axis,
            "method": found.method,
            "label": FIT,
            "quantity": quantity,
            **_value_columns(estimate),
            "note": note,
        }


def _value_columns(estimate: Estimate | None) -> Columns:
    if estimate is None:
        return {"value": None}
    return {"value": or_none(estimate.value), **interval_columns(estimate.intervals)}
