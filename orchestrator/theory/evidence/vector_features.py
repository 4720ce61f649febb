"""Predictors from the task vectors of a merge's experts, which exist once these are trained.

Everything follows from the inner products of the task vectors, which `measure` takes in one pass
over the experts' files. Lengths, their ratio and cosines are among the metrics of pairs of experts
that arXiv:2601.22285 compares; the relative spread is that of Corollary 1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from eval.theory.spread import relative_spread
from orchestrator.bounds.study_measurements import MeasuredOperator
from orchestrator.plan.plan import Plan
from orchestrator.theory.features import MEASURED, Predictor
from orchestrator.theory.panel import Array, Panel

TaskVectors = Mapping[tuple[str, str], Array]
"""The inner products of the task vectors, (N, N), by the names of setting and group."""

_NEEDS = "the experts' weights"
_TOGETHER = "task vectors, all four"


def task_vectors_of(plan: Plan, operators: Sequence[MeasuredOperator]) -> TaskVectors:
    """Returns the inner products of the task vectors of each group at each setting."""
    measured = {
        tuple(expert.id for expert in each.merge.experts): np.array(each.metrics.before)
        for each in operators
    }
    found = {}
    for cell in plan.cells:
        gram = measured.get(tuple(expert.id for expert in cell.merge.experts))
        if gram is not None:
            found[cell.setting.name, cell.group.name] = gram
    return found


def vector_predictors(panel: Panel, vectors: TaskVectors) -> Iterator[Predictor]:
    """Yields the predictors that are known and finite for all merges of a panel."""
    formulas: dict[str, Callable[[Array], float]] = {
        "task vectors, length": ln_length,
        "task vectors, shortest over longest": _length_ratio,
        "task vectors, cosine": _cosine,
        "task vectors, relative spread": _ln_relative_spread,
    }
    keys = [[(setting, group) for group in panel.groups] for setting in panel.settings]
    if not all(key in vectors for row in keys for key in row):
        return
    columns = {
        name: np.array([[formula(vectors[key]) for key in row] for row in keys])
        for name, formula in formulas.items()
    }
    if not all(np.isfinite(values).all() for values in columns.values()):
        return
    for name, values in columns.items():
        yield Predictor(name=name, label=MEASURED, needs=_NEEDS, features=values[:, :, None])
    together = np.stack(list(columns.values()), axis=2)
    yield Predictor(name=_TOGETHER, label=MEASURED, needs=_NEEDS, features=together)


def lengths(gram: Array) -> Array:
    """Returns the lengths of the task vectors, (N,)."""
    return np.sqrt(np.maximum(np.diag(gram), 0.0))


def ln_length(gram: Array) -> float:
    """Returns ln of the mean length of the task vectors; NaN if all are 0."""
    mean = float(lengths(gram).mean())
    return float(np.log(mean)) if mean > 0 else float("nan")


def _length_ratio(gram: Array) -> float:
    each = lengths(gram)
    return float(each.min() / each.max()) if each.max() > 0 else float("nan")


def _cosine(gram: Array) -> float:
    """Returns the mean cosine of all pairs; 1 for a single expert."""
    each = lengths(gram)
    pairs = np.triu_indices(len(gram), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = (gram / np.outer(each, each))[pairs]
    return float(cosines.mean()) if len(cosines) else 1.0


def _ln_relative_spread(gram: Array) -> float:
    value = relative_spread(gram, np.full(len(gram), 1 / len(gram)))
    return float(np.log(value)) if value > 0 else float("nan")
