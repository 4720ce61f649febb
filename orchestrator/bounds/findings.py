"""Says in sentences what a study's measurements show, each number with its error."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from eval.counts import counted
from eval.theory.gram import gradient_gram, is_resolved, jackknife
from eval.theory.labels import Reach
from eval.theory.spread import relative_spread, spread
from eval.theory.surrogate import heterogeneity_under
from orchestrator.record.task_constants import MeasuredTasks
from workers.artifacts.manifests import Manifest
from workers.artifacts.measured import Matrix, Measured, OperatorMetrics, ReachMetrics
from workers.specs.measures import OperatorSpec, ReachSpec


def constants_lines(measured: MeasuredTasks) -> Iterator[str]:
    """Yields a line for each task, and one on the heterogeneity of all tasks together."""
    for task, metrics in measured.metrics.items():
        bracket = metrics.curvature
        curvature = (
            "" if bracket is None else f", curvature {bracket.low:.3g} to {bracket.high:.3g}"
        )
        yield (
            f"{task}: loss {_text(metrics.loss)}, squared gradient "
            f"{_text(metrics.squared_gradient)}, noise {_text(metrics.noise)}{curvature}"
        )
    if len(measured.tasks) > 1:
        yield heterogeneity_text(measured)[1]


def heterogeneity_text(measured: MeasuredTasks) -> tuple[float, str]:
    """Returns `kappa2` of several tasks, and a sentence on whether it stands out of its noise."""
    num = len(measured.tasks)
    weights = np.full(num, 1 / num)
    found = jackknife(
        measured.products, lambda each: heterogeneity_under(gradient_gram(each), weights)
    )
    noise = [metrics.noise.value for metrics in measured.metrics.values()]
    num_images = min(
        metrics.batch_size * len(metrics.products) for metrics in measured.metrics.values()
    )
    kappa2 = float(found.value)
    resolved = is_resolved(kappa2, noise=noise, num_examples=num_images)
    verdict = "resolved" if resolved else f"not resolved with {num_images} images a task"
    return kappa2, (
        f"heterogeneity of the {num} tasks: {kappa2:.3g} ± {float(found.standard_error):.2g}, "
        f"{verdict}"
    )


def reach_lines(
    specs: Mapping[str, Sequence[ReachSpec]], *, found: Mapping[str, Manifest]
) -> Iterator[str]:
    """Yields a line for each setting: the reach of the paths to its experts, in words.

    Args:
        specs: The reaches of each setting's experts, by the setting's name.
        found: The committed measurements, by id.
    """
    for setting, paths in specs.items():
        manifests = [found[spec.id] for spec in paths if spec.id in found]
        metrics = [ReachMetrics.from_json(each.metrics) for each in manifests]
        values = [each.reach.value for each in metrics if each.reach is not None]
        if not values:
            continue
        middle, farthest = statistics.median(values), max(values, key=abs)
        words = Reach(merge=None, path=farthest).path_words
        changes = [
            (each.predicted_change, each.end_loss - each.start_loss)
            for each in metrics
            if each.predicted_change is not None and each.end_loss is not None
        ]
        predicted, measured = map(list, zip(*changes, strict=True)) if changes else ([], [])
        compared = (
            f"predicted change of the loss {statistics.fmean(predicted):.3g}, measured "
            f"{statistics.fmean(measured):.3g}"
            if changes
            else "no expert's loss is finite at the end of its path"
        )
        yield (
            f"{setting}: path reach {middle:.2g} (median of "
            f"{counted(len(values), 'expert')}), largest "
            f"magnitude {abs(farthest):.2g}: {words}; {compared}"
        )


def operator_lines(
    specs: Sequence[OperatorSpec], *, found: Mapping[str, Manifest], labels: Mapping[str, str]
) -> Iterator[str]:
    """Yields a line for each method that changes task vectors: Corollary 1 and its gap.

    Args:
        specs: The measurements of merges.
        found: The committed measurements, by id.
        labels: The label of each merge's method, by the merge's id.
    """
    by_method: dict[str, list[OperatorMetrics]] = {}
    for spec in specs:
        if spec.id in found:
            metrics = OperatorMetrics.from_json(found[spec.id].metrics)
            by_method.setdefault(labels[spec.merge.id], []).append(metrics)
    for method, measures in sorted(by_method.items()):
        parts = [each for each in measures if each.after is not None and each.after != each.before]
        if parts:
            pairs = [(each.before, each.after) for each in parts if each.after is not None]
            yield f"{method}: {_corollary(pairs)}{_flips(parts)}"


def verb_of(ratios: Sequence[float]) -> str:
    """Returns `falls`, `rises` or `stays`, as the mean of some ratios says to two decimals."""
    mean = round(statistics.fmean(ratios), 2)
    return "stays" if mean == 1 else "falls" if mean < 1 else "rises"


def _corollary(pairs: Sequence[tuple[Matrix, Matrix]]) -> str:
    ratios, relative = [], []
    for before, after in pairs:
        weights = np.full(len(before), 1 / len(before))
        if spread(before, weights) > 0:
            ratios.append(spread(after, weights) / spread(before, weights))
            relative.append(relative_spread(after, weights) / relative_spread(before, weights))
    if not ratios:
        return "the task vectors have no spread"
    return (
        f"the spread {verb_of(ratios)}, to {statistics.fmean(ratios):.2f} times the one before "
        f"(mean of {counted(len(ratios), 'merge')}), relative to the mean's length to "
        f"{statistics.fmean(relative):.2f} times; stability is not covered by this"
    )


def _flips(measures: Sequence[OperatorMetrics]) -> str:
    pairs = [
        (statistics.fmean(each.flipped), statistics.fmean(each.flipped_before))
        for each in measures
        if each.flipped is not None and each.flipped_before is not None
    ]
    if not pairs:
        return ""
    after, before = (statistics.fmean(column) for column in zip(*pairs, strict=True))
    return (
        f"; leaving one expert out flips {100 * after:.1f} % of the signs, against "
        f"{100 * before:.1f} % of the plain average's"
    )


def _text(number: Measured) -> str:
    return f"{number.value:.3g} ± {number.standard_error:.2g}"
