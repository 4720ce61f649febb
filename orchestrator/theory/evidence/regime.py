"""Tells a study's user what its measurements say about the trainings, each finding with a number.

How much of a task vector is noise of batches and heads; at which settings training left the range
of a second-order expansion; whether the heterogeneity of the tasks stands out of its noise; the
weights that tasks really have in a merge; how the best number of steps moves with the scaling.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from eval.counts import counted
from eval.theory.labels import LARGEST_PATH_REACH, USABLE_PATH_REACH
from eval.theory.surrogate import chi_square
from orchestrator.bounds.findings import heterogeneity_text
from orchestrator.bounds.merge_bounds import MergeBounds
from orchestrator.bounds.study_measurements import StudyMeasurements
from orchestrator.plan.plan import Plan
from orchestrator.theory.features import MEASURED
from orchestrator.theory.table_rows import Columns, or_none


def reach_rows(plan: Plan, measurements: StudyMeasurements) -> Iterator[Columns]:
    """Yields the path to each expert that was measured, at each setting.

    Settings with the same experts are one, which keeps its first name.
    """
    seen = set()
    for setting, experts in zip(plan.settings, plan.setting_experts, strict=True):
        ids = tuple(spec.id for spec in experts.values())
        if ids in seen:
            continue
        seen.add(ids)
        for task, spec in experts.items():
            found = measurements.reaches.get(spec.id)
            if found is None:
                continue
            change = None if found.end_loss is None else found.end_loss - found.start_loss
            yield {
                "setting": setting.name,
                "task": task,
                "label": MEASURED,
                "slope": None if found.slope is None else found.slope.value,
                "curvature": None if found.curvature is None else found.curvature.value,
                "reach": None if found.reach is None else or_none(found.reach.value),
                "reach_error": None if found.reach is None else or_none(found.reach.standard_error),
                "predicted_change": found.predicted_change,
                "measured_change": change,
                "length": math.sqrt(found.squared_length),
            }


def diagnostic_rows(
    plan: Plan, measurements: StudyMeasurements, *, bounds: Sequence[MergeBounds]
) -> Iterator[Columns]:
    """Yields the findings with a number each; none where nothing was measured for one."""
    yield from _batch_noise(measurements)
    yield from _regimes(list(reach_rows(plan, measurements)))
    for measured in {id(each): each for each in measurements.constants.values()}.values():
        if len(measured.tasks) > 1:
            number, text = heterogeneity_text(measured)
            yield _row("heterogeneity", "all tasks", number, f"{text}.")
    yield from _surrogate(bounds, measurements)


def _batch_noise(measurements: StudyMeasurements) -> Iterator[Columns]:
    """Yields the cosine between the task vectors of two seeds, by task."""
    by_task: dict[str, list[float]] = {}
    for pair in measurements.seeds:
        gram = np.array(pair.metrics.before)
        lengths = np.sqrt(np.diag(gram))
        cosines = (gram / np.outer(lengths, lengths))[np.triu_indices(len(gram), 1)]
        by_task.setdefault(pair.merge.experts[0].task, []).extend(map(float, cosines))
    for task, cosines in by_task.items():
        mean = statistics.fmean(cosines)
        repeats = max(0.0, mean)
        yield _row(
            "repeatable share",
            task,
            mean,
            f"on {task}, two seeds give task vectors with a cosine of {mean:z.2f} "
            f"({counted(len(cosines), 'pair')}): {100 * repeats:.0f} % of a task vector's squared "
            f"length repeats, {100 * (1 - repeats):.0f} % is noise of batches, heads and order.",
        )


def _regimes(rows: Sequence[Columns]) -> Iterator[Columns]:
    settings: dict[str, list[float]] = {}
    for row in rows:
        if row["reach"] is not None:
            settings.setdefault(row["setting"], []).append(row["reach"])
    if not settings:
        return
    farthest = {name: max(values, key=abs) for name, values in settings.items()}
    parts = (
        ("up to 1 (second order usable)", -math.inf, USABLE_PATH_REACH),
        ("up to 3 (order of magnitude)", USABLE_PATH_REACH, LARGEST_PATH_REACH),
        ("beyond 3 (outside any local theory)", LARGEST_PATH_REACH, math.inf),
    )
    for words, low, high in parts:
        inside = {name: value for name, value in farthest.items() if low < abs(value) <= high}
        spelt = ", ".join(f"{name} ({value:.2g})" for name, value in inside.items())
        yield _row(
            "path reach",
            words,
            len(inside),
            f"Path reach {words}: {len(inside)} of {counted(len(farthest), 'setting')}"
            + (
                f": {spelt}; in brackets that of the experts which is farthest from 0."
                if inside
                else "."
            ),
        )


def _surrogate(bounds: Sequence[MergeBounds], measurements: StudyMeasurements) -> Iterator[Columns]:
    if bounds:
        worst = max(bounds, key=lambda each: each.chi_square)
        rounded = 0.0 if worst.chi_square < 1e-9 else worst.chi_square  # noqa: PLR2004 rounding
        yield _row(
            "chi-square of the surrogate",
            "all merges",
            rounded,
            "Steps and rates of a merge's experts are equal: they give every task the weight that "
            "its coefficient says."
            if rounded == 0.0
            else "Unequal steps and rates tilt the tasks' weights: in the worst merge to "
            f"{_weights(worst.weights)} (chi-square {rounded:.3g}).",
        )
    tilted = []
    for operator in measurements.operators:
        lengths = np.sqrt(np.diag(np.array(operator.metrics.before)))
        if lengths.sum() > 0:
            weights = lengths / lengths.sum()
            equal = np.full(len(weights), 1 / len(weights))
            tilted.append((chi_square(equal, weights), weights))
    if tilted:
        value, weights = max(tilted, key=lambda each: each[0])
        mean = statistics.fmean(each for each, _ in tilted)
        yield _row(
            "chi-square by length",
            "all merges",
            mean,
            f"By the measured lengths of their task vectors, tasks weigh at most as unequally as "
            f"{_weights(weights.tolist())} (chi-square {value:.3g}; mean over the merges "
            f"{mean:.3g}).",
        )


def best_steps_rows(
    plan: Plan, losses: Mapping[tuple[str, str], Mapping[str, float]]
) -> Iterator[Columns]:
    """Yields how the best number of steps moves with the scaling, for each method with several.

    Args:
        plan: The study's plan.
        losses: Mean loss at each value of `steps`, by axis and method.
    """
    scalings: dict[str, dict[float, str]] = {}
    for cell in plan.cells:
        scaling = cell.merge.params.get("scaling")
        if isinstance(scaling, int | float):
            rest = {name: value for name, value in cell.merge.params.items() if name != "scaling"}
            family = f"{cell.merge.method} {rest}" if rest else cell.merge.method
            scalings.setdefault(family, {}).setdefault(float(scaling), cell.label)
    for family, labels in scalings.items():
        found = {
            scaling: along
            for scaling, label in sorted(labels.items())
            if (along := losses.get(("steps", label)))
        }
        if len(found) < 2:  # noqa: PLR2004 one scaling does not move
            continue
        best = {scaling: min(along, key=along.__getitem__) for scaling, along in found.items()}
        spelt = ", ".join(f"{steps} at {scaling:g}" for scaling, steps in best.items())
        moves = len(set(best.values())) > 1
        yield _row(
            "best steps",
            family,
            float(best[max(best)]),
            f"with {family.partition(' ')[0]}, the steps with the least mean loss are {spelt} "
            f"(scaling){'.' if moves else ': the best does not move with the scaling here.'}",
        )


def _row(topic: str, subject: str, number: float, text: str) -> Columns:
    return {
        "topic": topic,
        "subject": subject,
        "label": MEASURED,
        "number": or_none(float(number)),
        "text": text,
    }


def _weights(weights: Sequence[float]) -> str:
    return ", ".join(f"{100 * weight:.0f} %" for weight in weights)
