"""Fills the tables of rank correlations and of held-out predictions, for one method at a time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from eval.counts import counted
from orchestrator.results.schema import MACRO
from orchestrator.theory.features import Predictor
from orchestrator.theory.held_out import (
    MIN_SETTINGS,
    PROTOCOLS,
    SCORES,
    Scored,
    best_of,
    difference,
    predict,
    total,
)
from orchestrator.theory.intervals import Interval, widest
from orchestrator.theory.panel import Panel
from orchestrator.theory.ranks import MIN_VALUES, WITHIN, correlations
from orchestrator.theory.table_rows import Columns, Note, Part, interval_columns, or_none
from orchestrator.theory.targets import EXCESS, RECOVERY, target

ALL_AXES = "all"
"""The axis of a correlation over all settings together."""
LOSS = "loss"

Predictors = Callable[[Panel], Sequence[Predictor]]
"""Returns the predictors of the merges of a panel, the baselines among them."""
ScoredPredictor = tuple[Predictor, Scored]


def correlation_part(panel: Panel, predictors: Predictors) -> Part:
    """Returns the rank correlations of all predictors with the macro loss and with the excess."""
    part = Part()
    whole = panel.balanced()
    parts = {
        axis: panel.at(list(dict.fromkeys(values.values()))).balanced()
        for axis, values in panel.axes.items()
    }
    for axis, along in {ALL_AXES: whole, **parts}.items():
        if len(along.settings) < MIN_VALUES:
            text = f"{axis}: fewer than {MIN_VALUES} settings share groups"
            part.notes.append(Note("rank correlations", text))
        elif axis == ALL_AXES or along.settings != whole.settings:
            part.rows.extend(_ranked(along, axis=axis, predictors=predictors(along)))
    return part


def prediction_part(panel: Panel, predictors: Predictors) -> Part:
    """Returns the scores of all predictors on settings, tasks and both that were left out."""
    whole = panel.balanced()
    if len(whole.settings) < MIN_SETTINGS:
        text = f"fewer than {MIN_SETTINGS} settings share groups: nothing can be left out"
        return Part(notes=[Note("held-out predictions", text)])
    part = Part()
    for name in (EXCESS, RECOVERY):
        if not np.isfinite(target(whole, name, mean=MACRO)).all():
            text = f"no {name}: some experts are no better than the base"
            part.notes.append(Note("held-out predictions", text))
            continue
        for protocol in PROTOCOLS:
            shared = {"target": name, "left_out": protocol}
            for known, usable in _by_settings(predictors(whole), whole, part=part):
                scored = [
                    (each, _scored(each, name, panel=known, protocol=protocol)) for each in usable
                ]
                part.notes.extend(_unpredicted(scored, protocol=protocol))
                part.rows.extend(
                    row | shared
                    for row in _scores(scored, panel=known)
                    if known is whole or not row["is_baseline"]
                )
    return part


def _by_settings(
    predictors: Sequence[Predictor], whole: Panel, *, part: Part
) -> Iterator[tuple[Panel, Sequence[Predictor]]]:
    """Yields the settings that predictors have values at, with these predictors and the baselines.

    All settings come first. Predictors of too few settings are noted in `part`.
    """
    by_known: dict[tuple[int, ...], list[Predictor]] = {tuple(range(len(whole.settings))): []}
    for each in predictors:
        by_known.setdefault(tuple(each.known_settings), []).append(each)
    baselines = [each for each in predictors if each.is_baseline]
    for settings, known in by_known.items():
        if len(settings) == len(whole.settings):
            yield whole, known
        elif len(settings) >= MIN_SETTINGS:
            yield whole.at(settings), [each.at(settings) for each in (*baselines, *known)]
        else:
            text = f"{known[0].name}: only {counted(len(settings), 'setting')} of {MIN_SETTINGS}"
            part.notes.append(Note("held-out predictions", f"{text} that are needed"))


def _ranked(panel: Panel, *, axis: str, predictors: Sequence[Predictor]) -> Iterator[Columns]:
    losses = {
        LOSS: panel.group_means("loss", mean=MACRO),
        EXCESS: target(panel, EXCESS, mean=MACRO),
    }
    for name, measured in losses.items():
        for predictor in predictors:
            single, known = predictor.single, predictor.known_settings
            found = (
                ()
                if single is None or len(known) < MIN_VALUES
                else correlations(single[known], measured[known], members=panel.members)
            )
            for each in found:
                if name == EXCESS and each.kind == WITHIN:
                    continue  # equal to that of the loss
                yield {
                    "method": panel.method,
                    "axis": axis,
                    "predictor": predictor.name,
                    "label": predictor.label,
                    "target": name,
                    "kind": each.kind,
                    "spearman": or_none(each.spearman),
                    "kendall": or_none(each.kendall),
                    "num_values": each.num_values,
                    "num_coefficients": each.num_coefficients,
                    "least_p": each.least_p,
                    **interval_columns(each.intervals),
                }


def _scored(predictor: Predictor, name: str, *, panel: Panel, protocol: str) -> Scored:
    measured = target(panel, name, mean=MACRO)
    return Scored(
        held_out=predict(predictor.features, measured, members=panel.members, protocol=protocol),
        measured=measured,
        loss=panel.group_means("loss", mean=MACRO),
        prefers_low=name != RECOVERY,
    )


def _unpredicted(scored: Sequence[ScoredPredictor], *, protocol: str) -> Iterator[Note]:
    if any(not len(each.held_out.predicted) for _, each in scored):
        text = f"left-out {protocol}: every group has every task, so that no groups are without one"
        yield Note("held-out predictions", text)


def _scores(scored: Sequence[ScoredPredictor], *, panel: Panel) -> Iterator[Columns]:
    known = [(predictor, each) for predictor, each in scored if len(each.held_out.predicted)]
    baselines = {predictor.name: each for predictor, each in known if predictor.is_baseline}
    for score in SCORES if known else ():
        best = best_of(baselines, score=score)
        for predictor, each in known:
            gap, intervals = difference(each, baselines[best], score=score, members=panel.members)
            yield {
                "method": panel.method,
                "predictor": predictor.name,
                "label": predictor.label,
                "needs": predictor.needs,
                "is_baseline": predictor.is_baseline,
                "score": score,
                "value": or_none(total(each, score)),
                "best_baseline": best,
                "difference": or_none(gap),
                **interval_columns(intervals),
                "is_better": _is_better(widest(intervals), sign=SCORES[score]),
                "num_settings": len(panel.settings),
                "num_groups": len(panel.groups),
            }


def _is_better(interval: Interval, *, sign: float) -> bool:
    """Returns whether the whole interval is on the better side of 0."""
    return min(sign * interval.low, sign * interval.high) > 0
