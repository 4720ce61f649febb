import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eval.theory.accumulation import sgd
from eval.theory.gram import gradient_gram
from orchestrator.bounds.study_measurements import NOTHING_MEASURED, read_study_measurements
from orchestrator.plan.measurements import constants_of
from orchestrator.plan.plan import Plan
from orchestrator.record.task_constants import MeasuredTasks
from orchestrator.theory.answers import NOT_MEASURED, compute_answers
from orchestrator.theory.base_features import base_predictors
from orchestrator.theory.features import ExpertTraining
from orchestrator.theory.measured import bases_of
from orchestrator.theory.panel import Array, panels
from orchestrator.theory.schema import PREDICTIONS
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.measured import ConstantsMetrics, CurvatureMetrics, Measured
from workers.store.local import LocalStore

TASKS = ("a", "b", "c", "d")
LRS = ("0.001", "0.002", "0.004", "0.008")
PAIRS = list(itertools.combinations(range(4), 2))
GRADIENTS = np.random.default_rng(5).standard_normal((4, 3, 6)) + 2.0  # tasks, batches, weights


def loss(index: int, _: str, __: str, task: str) -> float:
    return 2.0 - 0.1 * index + 0.05 * TASKS.index(task) * math.cos(index)


def measured(*, has_curvature: bool) -> MeasuredTasks:
    curvature = CurvatureMetrics(
        low=1.0, high=2.0, low_sd=None, high_sd=None, num_images=8, num_pairs=1, single_mean=2.0,
        single_max=3.0, num_singles=1,
    )  # fmt: skip
    products = np.einsum("iqd,jrd->iqjr", GRADIENTS, GRADIENTS)
    metrics = {
        task: ConstantsMetrics(
            products=tuple(map(tuple, products[at, :, at].tolist())),
            batch_size=8,
            num_weights=6,
            squared_gradient=Measured(value=1.0, standard_error=0.1),
            noise=Measured(value=1.0 + at, standard_error=0.1),
            loss=Measured(value=2.0 + at, standard_error=0.1),
            curvature=curvature if has_curvature else None,
            num_gradients=24,
            has_kinks=True,
            has_batch_norm=False,
            num_products=0,
        )
        for at, task in enumerate(TASKS)
    }
    return MeasuredTasks(tasks=TASKS, metrics=metrics, products=products)


def values_of(results: pa.Table, *, has_curvature: bool) -> dict[str, Array]:
    (panel,) = panels(results)
    found = base_predictors(
        panel,
        trainings=trainings(),
        measured=dict.fromkeys(panel.settings, measured(has_curvature=has_curvature)),
        mean="macro",
    )
    return {each.name: each.features[:, :, 0] for each in found}


def trainings() -> dict[str, dict[str, ExpertTraining]]:
    return {
        f"lr={lr}": {
            task: ExpertTraining(
                steps=4,
                batch_size=8,
                lr=float(lr),
                momentum=0.0,
                is_adam=False,
                num_examples=50,
                accumulation=sgd([1.0] * 4),
            )
            for task in TASKS
        }
        for lr in LRS
    }


@pytest.fixture
def results(make_results: Callable[..., pa.Table]) -> pa.Table:
    """Returns the result table of four learning rates."""
    return make_results({"lr": LRS}, loss=loss)


def test_values_by_hand(results: pa.Table) -> None:
    """Agreement and heterogeneity of the pair's gradients, its loss, and the descent H g2 / 2."""
    found = values_of(results, has_curvature=False)
    gram = gradient_gram(np.einsum("iqd,jrd->iqjr", GRADIENTS, GRADIENTS))
    for at, pair in enumerate(PAIRS):
        part = gram[np.ix_(pair, pair)]
        squared_mean, mean_square = part.mean(), np.diag(part).mean()
        assert found["gradient agreement"][0, at] == pytest.approx(squared_mean / mean_square)
        assert found["gradient heterogeneity"][0, at] == pytest.approx(mean_square - squared_mean)
        assert found["initial loss"][0, at] == pytest.approx(2 + sum(pair) / 2)
        assert found["descent"][1, at] == pytest.approx(-0.002 * 4 * squared_mean / 2)


def test_forms_with_curvature_need_it(results: pa.Table) -> None:
    """Without it they are left out; with it both are there, the test loss above the training's."""
    assert "training loss proved" not in values_of(results, has_curvature=False)
    found = values_of(results, has_curvature=True)
    assert (found["test loss proved"] > found["training loss proved"]).all()


def test_measured_constants_are_predictors_with_labels(results: pa.Table) -> None:
    """They stand in the table beside the others; formulas of the theory are scores."""
    bases = dict.fromkeys([f"lr={lr}" for lr in LRS], measured(has_curvature=True))
    answers = compute_answers(results, trainings=trainings(), measured=bases)
    labels = {row["predictor"]: row["label"] for row in answers.rows(PREDICTIONS)}
    assert labels["gradient agreement"] == "measured"
    assert labels["test loss proved"] == "score: proved form"


def test_a_store_without_constants_says_so(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    """Nothing is measured here; the reason reaches the notes."""
    plan = make_plan()
    assert constants_of(plan)
    artifacts = Artifacts(LocalStore(tmp_path / "store"))
    found = read_study_measurements(artifacts, plan, cache_root=tmp_path)
    assert found == NOTHING_MEASURED
    assert bases_of(plan, found) == NOT_MEASURED
