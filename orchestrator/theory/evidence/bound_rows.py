"""Fills the tables of the theory's statements beside measured losses, for one method at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from eval.theory.labels import REASONS_AGAINST_A_BOUND, Reason
from orchestrator.results.schema import MACRO
from orchestrator.theory.evidence.bound_panel import (
    COMPARED,
    TRAINING_LOSS,
    BoundPanel,
    BoundsByCell,
    bound_panel,
)
from orchestrator.theory.evidence.calibration import calibrate
from orchestrator.theory.panel import Array, Mask, Panel
from orchestrator.theory.table_rows import Columns, Note, Part, or_none
from orchestrator.theory.targets import EXCESS, target

TOPIC = "bounds against measurement"


def bound_part(panel: Panel, bounds: BoundsByCell) -> Part:
    """Returns each statement beside the measured loss, at every value of every axis.

    Numbers are means over the groups that all settings share. Values with other groups, as those of
    the number of tasks, have the means over their own.
    """
    found = bound_panel(panel, bounds)
    if not found.known.any():
        reason = (
            f"no statement about {panel.method}: its constants are not measured, or its "
            "coefficients are not known before it merges"
        )
        return Part(notes=[Note(TOPIC, reason)])
    part = Part(notes=list(_reasons(panel, bounds)))
    means = _Means.of(panel, found)
    for axis, values in panel.axes.items():
        for value, at in values.items():
            if not means.groups[at].any():
                continue
            shared = {
                "axis": axis,
                "value": value,
                "method": panel.method,
                "measured": means.over(means.loss, at=at),
                "excess": means.over(means.excess, at=at),
                "reach": or_none(float(found.reach[at])),
                "path_reach": or_none(float(found.path_reach[at])),
                "num_groups": int(means.groups[at].sum()),
            }
            part.rows.extend(row | shared for row in _statement_columns(found, means, at=at))
    if not any(each.quantity == TRAINING_LOSS for each in found.statements):
        text = (
            "the curvature is not measured: of the proved form there are only descent and "
            "stability (`mergesweep measure NAME --curvature` measures it)"
        )
        part.notes.append(Note(TOPIC, text))
    return part


def _reasons(panel: Panel, bounds: BoundsByCell) -> Iterator[Note]:
    """Yields why numbers about a panel's merges are no bounds, whatever the reach."""
    found = {
        reason
        for (_, method, _), each in bounds.items()
        if method == panel.method
        for reason in each.stability.reasons
    }
    told = REASONS_AGAINST_A_BOUND - {Reason.CURVATURE_NOT_MEASURED}
    for reason in Reason:
        if reason in found & told:
            yield Note(TOPIC, f"no bound, only scores: {reason}")


def calibration_part(panel: Panel, bounds: BoundsByCell) -> Part:
    """Returns the calibration of each statement on the measured excess, over all settings."""
    part = Part()
    found = bound_panel(panel, bounds)
    means = _Means.of(panel, found)
    settings = [int(at) for at in np.flatnonzero(means.groups.any(axis=1))]
    places = {at: place for place, at in enumerate(settings)}
    axes = {
        axis: [places[at] for at in values.values() if at in places]
        for axis, values in panel.axes.items()
    }
    excess = np.array([means.over(means.excess, at=at) for at in settings])
    for each in found.statements:
        if each.quantity not in COMPARED:
            continue
        numbers = np.array([means.over(each.values, at=at) for at in settings])
        fitted = calibrate(numbers, excess, axes=axes)
        if isinstance(fitted, str):
            text = f"no calibration of {each.name}, {panel.method}: {fitted}"
            part.notes.append(Note(TOPIC, text))
            continue
        part.rows.append(
            {
                "method": panel.method,
                "quantity": each.quantity,
                "form": each.form.value,
                "label": each.label,
                "intercept": fitted.intercept,
                "slope": fitted.slope,
                "r_squared": or_none(fitted.r_squared),
                "error": fitted.error,
                "error_left_out": or_none(fitted.error_left_out),
                "num_settings": len(settings),
                "num_groups": int(means.groups[settings].sum(axis=1).max()),
            }
        )
    return part


@dataclass(frozen=True, kw_only=True)
class _Means:
    """The measured losses of a panel, and the groups whose mean counts at each setting."""

    loss: Array
    """(S, G)."""
    excess: Array
    groups: Mask
    """(S, G): the groups that all settings share, or a setting's own where it has none of these."""

    @classmethod
    def of(cls, panel: Panel, found: BoundPanel) -> "_Means":
        known = found.known & np.isfinite(panel.group_means("loss", mean=MACRO))
        values = {**panel.values}
        values["loss"] = np.where(known[:, :, None], panel.values["loss"], np.nan)
        shared = np.isin(panel.groups, replace(panel, values=values).balanced().groups)
        has_all = known[:, shared].all(axis=1, keepdims=True) & shared.any()
        return cls(
            loss=panel.group_means("loss", mean=MACRO),
            excess=target(panel, EXCESS, mean=MACRO),
            groups=np.where(has_all, shared, known),
        )

    def over(self, numbers: Array, *, at: int) -> float:
        """Returns the mean over the groups of a setting."""
        return float(numbers[at, self.groups[at]].mean())


def _statement_columns(found: BoundPanel, means: _Means, *, at: int) -> Iterator[Columns]:
    for each in found.statements:
        number = means.over(each.values, at=at)
        if np.isfinite(number):
            yield {
                "quantity": each.quantity,
                "form": each.form.value,
                "label": each.label_at(at),
                "number": number,
            }
