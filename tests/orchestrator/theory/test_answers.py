import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eval.theory.accumulation import sgd
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.results.schema import RESULTS_SCHEMA
from orchestrator.theory.answers import Answers, compute_answers
from orchestrator.theory.features import (
    ExpertTraining,
    Trainings,
    hyperparameter_predictors,
    stability_predictors,
)
from orchestrator.theory.panel import Panel, panels
from orchestrator.theory.schema import (
    BOUNDS,
    CALIBRATIONS,
    CORRELATIONS,
    DIAGNOSTICS,
    ESTIMATES,
    LAWS,
    NOTES,
    OPERATORS,
    PAIRS,
    PREDICTIONS,
    REACHES,
    SCHEMAS,
)
from orchestrator.theory.targets import EXCESS, RECOVERY, target
from orchestrator.theory.trainings import planned_trainings
from workers.artifacts.manifests import Manifest

MakeResults = Callable[..., pa.Table]
MEASURED_TABLES = {BOUNDS, CALIBRATIONS, OPERATORS, REACHES, DIAGNOSTICS}
LABELS = {"measured", "fit", "score", "score: stated form", "score: proved form"}
LRS = ("0.001", "0.002", "0.004", "0.008", "0.016")


def bent(index: int, _: str, method: str, task: str) -> float:
    """Returns a loss that is least at the third learning rate, with a wiggle of the task's."""
    number = "abcd".index(task)
    wiggle = 0.02 * math.sin(3 * index + number) + 0.01 * len(method)
    return 1.0 + 0.2 * number + 0.1 * (index - 2) ** 2 + wiggle


def trained(lr: str) -> dict[str, ExpertTraining]:
    return {
        task: ExpertTraining(
            steps=100,
            batch_size=8,
            lr=float(lr),
            momentum=0.9,
            is_adam=False,
            num_examples=500,
            accumulation=sgd([1.0] * 100),
        )
        for task in "abcd"
    }


TRAININGS: Trainings = {f"lr={lr}": trained(lr) for lr in LRS}


@pytest.fixture(scope="module")
def answers(make_results: MakeResults) -> Answers:
    """Returns the answers of a study with five learning rates and two methods."""
    table = make_results({"lr": LRS}, loss=bent, methods=("average", "ties"))
    return compute_answers(table, trainings=TRAININGS)


def test_all_tables_have_rows_with_their_schemas(answers: Answers) -> None:
    """A study with enough settings has every answer, and a label on every number."""
    for name, schema in SCHEMAS.items():
        assert answers.tables[name].schema == schema
        if name not in {NOTES, *MEASURED_TABLES}:
            assert answers.rows(name), name
            labels = {row["label"] for row in answers.rows(name)}
            assert labels <= LABELS, name


def test_predictors_of_the_study_file_are_scores(answers: Answers) -> None:
    """A number that was measured and a formula's number never have the same label."""
    labels = {row["predictor"]: row["label"] for row in answers.rows(PREDICTIONS)}
    assert {name for name, label in labels.items() if label == "measured"} == {
        "constant",
        "base_loss",
        "expert_loss",
    }


def test_the_learning_rate_law_bends(answers: Answers) -> None:
    """The parabola is preferred and its optimum found inside the values."""
    (law,) = [
        row
        for row in answers.rows(LAWS)
        if row["is_preferred"] and (row["method"], row["mean"]) == ("ties", "macro")
    ]
    assert law["form"] == "parabola"
    (optimum,) = [
        row
        for row in answers.rows(ESTIMATES)
        if row["quantity"] == "optimum" and (row["method"], row["mean"]) == ("ties", "macro")
    ]
    assert optimum["value"] == pytest.approx(0.004, rel=0.2)
    assert optimum["low"] <= optimum["value"] <= optimum["high"]


def test_only_the_parabola_beats_the_baselines_here(answers: Answers) -> None:
    """The hyperparameters with the squared term predict settings left out; monotone ones do not."""
    rows = {
        row["predictor"]: row
        for row in answers.rows(PREDICTIONS)
        if (row["method"], row["target"], row["left_out"], row["score"])
        == ("average", "excess", "setting", "rmse")
    }
    assert rows["hyperparameters"]["value"] < rows["hyperparameters, monotone"]["value"] / 2
    assert not rows["hyperparameters, monotone"]["is_better"]
    assert rows["hyperparameters"]["num_settings"] == len(LRS)


def test_held_out_tasks_have_a_law_of_their_own(make_results: MakeResults) -> None:
    """Along the number of tasks, the mean over all tasks is fitted beside that over the group's."""
    rows = make_results({"num_tasks": ("2", "3", "4")}, loss=bent).to_pylist()
    held_out = [
        row | {"task": task, "held_out": True, "loss": 5.0 + float(row["value"])}
        for row in rows
        for task in "ef"
    ]
    table = pa.Table.from_pylist(rows + held_out, schema=RESULTS_SCHEMA)
    found = compute_answers(table, trainings="no images").rows(LAWS)
    means = {row["mean"]: row["losses"] for row in found}
    assert list(means) == ["macro", "union", "all tasks"]
    own = np.array(means["macro"])
    assert np.array(means["all tasks"]) == pytest.approx((own + 5 + np.array([2, 3, 4])) / 2)


def test_equal_tables_give_equal_answers(make_results: MakeResults) -> None:
    """Draws have fixed seeds, so that the stored tables have the same bytes each time."""
    table = make_results({"lr": LRS}, loss=bent)
    first, second = (compute_answers(table, trainings=TRAININGS) for _ in range(2))
    assert first.tables == second.tables


def test_what_cannot_be_computed_is_said(make_results: MakeResults) -> None:
    """One setting and one method compare nothing, and every absence has its reason."""
    table = make_results({"lr": ("0.1",)}, loss=bent)
    found = compute_answers(table, trainings="the store lacks the images of a")
    assert not found.rows(PAIRS)
    assert not found.rows(LAWS)
    assert not found.rows(CORRELATIONS)
    assert not found.rows(PREDICTIONS)
    notes = {row["topic"]: row["text"] for row in found.rows(NOTES)}
    assert set(notes) == {
        "predictors",
        "predictors of snapshots",
        "predictor of validation images",
        "paired comparisons",
        "laws",
        "rank correlations",
        "held-out predictions",
    }
    assert "the store lacks the images of a" in notes["predictors"]


def test_a_study_without_merges_says_so(make_results: MakeResults) -> None:
    """An empty table has empty answers and one note."""
    found = compute_answers(make_results({}, loss=bent), trainings={})
    assert [row["text"] for row in found.rows(NOTES)] == ["no merge has a result yet"]


def test_targets_by_hand(make_panel: Callable[..., Panel]) -> None:
    """Excess takes the least expert's loss at any setting, recovery that of the merge's experts."""
    panel = make_panel(
        np.array([[[2.0]], [[3.0]]]),
        expert_loss=np.array([[[1.0]], [[0.5]]]),
        base_loss=np.array([[[4.0]], [[3.5]]]),
    )
    assert target(panel, EXCESS, mean="macro").ravel() == pytest.approx([1.5, 2.5])
    assert target(panel, RECOVERY, mean="macro").ravel() == pytest.approx([2 / 3, 0.5 / 3])


def test_no_recovery_where_experts_are_no_better_than_the_base(
    make_panel: Callable[..., Panel],
) -> None:
    """A share of nothing does not exist."""
    panel = make_panel(
        np.array([[[2.0]]]), expert_loss=np.array([[[3.0]]]), base_loss=np.array([[[3.0]]])
    )
    assert np.isnan(target(panel, RECOVERY, mean="macro")).all()


def test_noise_scale_by_hand(make_results: MakeResults) -> None:
    """SGD: eta / (b (1 - momentum)); Adam: eta / sqrt(b); in logarithms, averaged over tasks."""
    (panel,) = panels(make_results({"lr": ("0.001",)}, loss=bent))
    plain = trained("0.001")["a"]
    adam = ExpertTraining(
        steps=100,
        batch_size=16,
        lr=0.01,
        momentum=0.9,
        is_adam=True,
        num_examples=500,
        accumulation=sgd([1.0] * 100),
    )
    trainings = {"lr=0.001": {"a": plain, "b": adam, "c": plain, "d": plain}}
    found = {
        each.name: each
        for each in hyperparameter_predictors(panel, trainings=trainings, mean="macro")
    }
    noise, epochs = found["noise scale"].single, found["epochs"].single
    assert noise is not None
    assert epochs is not None
    of_sgd, of_adam = math.log(0.001 / (8 * 0.1)), math.log(0.01 / 4)
    assert noise[0, 0] == pytest.approx((of_sgd + of_adam) / 2)
    assert noise[0, 5] == pytest.approx(of_sgd)
    assert epochs[0, 5] == pytest.approx(math.log(100 * 8 / 500))


def test_a_piecewise_linear_predictor_bends_at_inner_values(make_results: MakeResults) -> None:
    """It fits any losses of the values that were tried, and is straight between them."""
    rates = ("0.001", "0.002", "0.008", "0.064")
    (panel,) = panels(make_results({"lr": rates}, loss=bent))
    trainings = {f"lr={rate}": trained(rate) for rate in rates}

    def features(knots: tuple[str, ...]) -> Any:  # noqa: ANN401 an array
        found = hyperparameter_predictors(panel, trainings=trainings, mean="macro", knots=knots)
        (each,) = (each for each in found if each.name == "hyperparameters, piecewise linear")
        return each.features[:, 0]

    bends = features(())
    ln = [math.log(float(rate)) for rate in rates]
    assert bends[:, 0] == pytest.approx(ln)
    assert bends[:, 1] == pytest.approx([0, 0, ln[2] - ln[1], ln[3] - ln[1]])
    assert bends[:, 2] == pytest.approx([0, 0, 0, ln[3] - ln[2]])
    assert features(("lr=0.001", "lr=0.002", "lr=0.008")).shape[1] == bends.shape[1] - 1


def test_trainings_need_the_number_of_images(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """Where the store lacks a task's images, its name is in the reason."""
    plan = make_plan()
    committed = Ledger(plan, manifests=all_manifests(plan)).committed()
    reason = planned_trainings(committed)
    assert isinstance(reason, str)
    assert "mnist_5k" in reason


def test_trainings_of_a_plan(
    make_plan: Callable[..., Plan], data_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """Every setting has every task, with the images that its data ratio leaves."""
    defaults: dict[str, Any] = {"steps": 10, "lr": 0.01, "batch_size": 8}
    plan = make_plan(finetune={"defaults": defaults, "axes": {"data_ratio": [0.1, 1.0]}})
    found = planned_trainings(Ledger(plan, manifests=data_manifests(plan)).committed())
    assert not isinstance(found, str)
    assert {name: by_task["mnist_5k"].num_examples for name, by_task in found.items()} == {
        "data_ratio=0.1": 21,
        "data_ratio=1.0": 205,
    }
    assert not found["data_ratio=0.1"]["mnist_5k"].is_adam
    assert found["data_ratio=0.1"]["mnist_5k"].momentum == 0.9


def test_accumulation_is_that_of_the_schedule_and_the_momentum(
    make_plan: Callable[..., Plan], data_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """Two steps at momentum 0.9: a = 1.9 and 1; with a linear schedule, 1.45 and 0.5."""
    defaults: dict[str, Any] = {"steps": 2, "lr": 0.01, "batch_size": 8}
    axes = {"schedule": ["constant", "linear"]}
    plan = make_plan(finetune={"defaults": defaults, "axes": axes})
    found = planned_trainings(Ledger(plan, manifests=data_manifests(plan)).committed())
    assert not isinstance(found, str)
    constant, linear = (found[f"schedule={name}"]["mnist_5k"] for name in axes["schedule"])
    assert (constant.accumulation.total, constant.accumulation.sum_of_squares) == pytest.approx(
        (2.9, 4.61)
    )
    assert (linear.accumulation.total, linear.accumulation.sum_of_squares) == pytest.approx(
        (1.95, 1.45**2 + 0.25)
    )


def test_both_eps_by_hand(make_results: MakeResults) -> None:
    """Stated and proved stability of the average of two equal experts, with constants at 1."""
    (panel,) = panels(make_results({"lr": ("0.001",)}, loss=bent))
    trainings = {"lr=0.001": trained("0.001")}
    found = {
        each.name: each for each in stability_predictors(panel, trainings=trainings, mean="macro")
    }
    assert {name: each.label for name, each in found.items()} == {
        "eps stated": "score: stated form",
        "eps proved": "score: proved form",
    }
    stated, proved = (found[f"eps {form}"].single for form in ("stated", "proved"))
    assert stated is not None
    assert proved is not None
    lr, steps, batch, images = 1e-3, 100, 8, 500
    of_stated = 4 * math.e**2 * lr**2 * steps * (1 + batch) / images
    of_proved = (
        2 * lr**2 * ((1 - batch / images) * steps / (batch * images) + (steps / images) ** 2)
    )
    assert stated[0] == pytest.approx([math.log(of_stated)] * 6)
    assert proved[0] == pytest.approx([math.log(of_proved / 4)] * 6)
