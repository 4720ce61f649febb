from collections.abc import Callable
from dataclasses import replace

import pytest
from made_study import made_ledger
from measured_tasks import measured_tasks

from eval.theory.labels import Reason
from orchestrator.bounds.study_measurements import NOTHING_MEASURED, StudyMeasurements
from orchestrator.plan.plan import Plan
from orchestrator.report.theory.chapter import theory_chapter
from orchestrator.results.schema import RESULTS_SCHEMA
from orchestrator.results.study_results import StudyResults
from orchestrator.theory.answers import Answers, compute_answers
from orchestrator.theory.evidence.bound_findings import bound_texts
from orchestrator.theory.evidence.bound_rows import bound_part
from orchestrator.theory.measured import evidence_of
from orchestrator.theory.panel import panels
from orchestrator.theory.schema import BOUNDS, CALIBRATIONS, CORRELATIONS
from orchestrator.tracking.theory_runs import theory_runs

LRS = [0.0001, 0.0002, 0.0004, 0.0008]
METHODS = [{"method": "average"}, {"method": "ties"}]
SMOOTH = {
    "optimizer": {"name": "sgd", "momentum": 0.0},
    "defaults": {"steps": 2, "lr": LRS[0], "batch_size": 8},
    "head": "frozen",
    "freeze_batch_norm": True,
    "axes": {"lr": LRS, "steps": [1, 2]},
}
NO_RESULTS = RESULTS_SCHEMA.empty_table()
SIZES = {"count": 3, "size": 2, "sizes": [2, 3]}


def measurements(plan: Plan, *, curvature: float | None = 2.0) -> StudyMeasurements:
    constants = measured_tasks(plan, curvature=curvature)
    by_setting = dict.fromkeys((setting.name for setting in plan.settings), constants)
    return replace(NOTHING_MEASURED, constants=by_setting)


def answers_of(plan: Plan, measured: StudyMeasurements) -> tuple[StudyResults, Answers]:
    results = StudyResults.of(made_ledger(plan).committed())
    evidence = evidence_of(plan, measured, results=results.merges, diverged=())
    answers = compute_answers(
        results.merges,
        trainings="left out here",
        bounds=evidence.bounds,
        coefficients=evidence.coefficients,
    )
    return results, answers


@pytest.fixture(scope="module")
def kept() -> dict[str, tuple[Plan, StudyResults, Answers]]:
    """Keeps the answers of the module's study, which take seconds."""
    return {}


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    """Returns a study of four rates, two step counts, two group sizes and two methods."""
    return make_plan(finetune=SMOOTH, groups=SIZES, merge=METHODS)


@pytest.fixture
def answered(
    plan: Plan, kept: dict[str, tuple[Plan, StudyResults, Answers]]
) -> tuple[Plan, StudyResults, Answers]:
    """Returns the study with its results and answers, all inside the range of the proofs."""
    if not kept:
        kept["smooth"] = (plan, *answers_of(plan, measurements(plan)))
    return kept["smooth"]


def test_every_number_has_its_word_and_stands_beside_the_measured_loss(
    answered: tuple[Plan, StudyResults, Answers],
) -> None:
    """Inside the range the proved form is a bound, the stated one never; forms are not mixed."""
    _, results, answers = answered
    rows = answers.rows(BOUNDS)
    labels = {(row["form"], row["label"]) for row in rows}
    assert labels == {("proved", "bound: proved form"), ("stated", "score: stated form")}
    assert {row["method"] for row in rows} == {"average"}
    for axis, values in {"lr": LRS, "steps": [1, 2], "num_tasks": [2, 3]}.items():
        shown = {row["value"] for row in rows if row["axis"] == axis}
        assert shown == {str(value) for value in values}
    at = [row for row in rows if (row["axis"], row["value"], row["method"]) == (
        "lr", "0.0004", "average",
    )]  # fmt: skip
    numbers = {(row["quantity"], row["form"]): row["number"] for row in at}
    terms = ("descent", "interference", "noise", "generalisation")
    total = numbers["loss at the base", "proved"] + sum(numbers[t, "proved"] for t in terms)
    assert numbers["test loss", "proved"] == pytest.approx(total)
    losses = [
        row["loss"]
        for row in results.merges.to_pylist()
        if (row["setting"], row["method"], row["task"]) == ("lr=0.0004", "average", "macro")
    ]
    assert at[0]["measured"] == pytest.approx(sum(losses) / len(losses))
    assert at[0]["reach"] == pytest.approx(0.0004 * 2 * 2)


def test_without_curvature_descent_and_stability_remain(plan: Plan) -> None:
    """No other number is made up for it, and a note says which command measures it."""
    bounds = evidence_of(
        plan, measurements(plan, curvature=None), results=NO_RESULTS, diverged=()
    ).bounds
    average, ties = panels(StudyResults.of(made_ledger(plan).committed()).merges)
    part = bound_part(average, bounds)
    assert {row["quantity"] for row in part.rows} == {"loss at the base", "descent", "stability"}
    assert {row["label"].split(":")[0] for row in part.rows} == {"score"}
    (note,) = part.notes
    assert "mergesweep measure NAME --curvature" in note.text
    (note,) = bound_part(ties, bounds).notes
    assert "coefficients are not known before it merges" in note.text


def test_what_takes_the_word_away_is_said(make_plan: Callable[..., Plan]) -> None:
    """Each reason against a bound is a note: BatchNorm in training mode, a head that is trained."""
    trained = {**SMOOTH, "freeze_batch_norm": False, "head": "trained"}
    plan = make_plan(finetune=trained, groups=SIZES, merge=METHODS)
    bounds = evidence_of(plan, measurements(plan), results=NO_RESULTS, diverged=()).bounds
    average, _ = panels(StudyResults.of(made_ledger(plan).committed()).merges)
    notes = [note.text for note in bound_part(average, bounds).notes]
    assert len(notes) == 2
    assert "no bound, only scores: BatchNorm was in training mode" in notes[0]
    assert "The head was trained with the expert" in notes[1]


def test_experts_that_diverged_take_the_word_away(plan: Plan) -> None:
    """Merges of an expert that diverged with finite weights have scores, and no others have."""
    first = plan.merges[plan.cells[0].merge.id].experts[0]
    bounds = evidence_of(plan, measurements(plan), results=NO_RESULTS, diverged={first.id}).bounds
    for cell in plan.cells:
        key = (cell.setting.name, cell.label, cell.group.name)
        if key in bounds:
            has_diverged = first in cell.merge.experts
            assert (Reason.DIVERGED in bounds[key].stability.reasons) == has_diverged


def test_formulas_are_ranked_and_calibrated_with_their_words(
    answered: tuple[Plan, StudyResults, Answers],
) -> None:
    """Both forms stand beside the baselines in the correlations; calibrations have labels."""
    _, _, answers = answered
    labels = {row["predictor"]: row["label"] for row in answers.rows(CORRELATIONS)}
    assert labels["stability stated, measured constants"] == "score: stated form"
    assert labels["test loss proved, measured constants"] == "bound: proved form"
    rows = answers.rows(CALIBRATIONS)
    assert {row["label"] for row in rows} == {"bound: proved form", "score: stated form"}
    texts = "\n".join(bound_texts(answers))
    assert "average, all settings: bound, reach 0.0002 to 0.0032" in texts
    assert "Of the four terms" in texts
    assert "stability stated (score)" in texts
    assert "the experts' own loss" in texts


def test_the_chapter_draws_every_axis_with_its_words(
    answered: tuple[Plan, StudyResults, Answers],
) -> None:
    """A figure for each axis and calibrated formula; words in titles and captions."""
    _, results, answers = answered
    page = theory_chapter(answers, results=results)
    captions = page.split("<figcaption>")[1:]
    for axis in ("lr", "steps", "num_tasks"):
        caption = next(each for each in captions if each.startswith(f"Along {axis}: "))
        assert "bound, reach" in caption.split("</figcaption>")[0]
    assert "terms of the proved form" in page
    assert page.count(">bound, reach 0.0004 to 0.0032<") >= 3, "words in the title of every row"
    assert "mathdefault" not in page, "ticks are text, not mathematics"
    assert any("log10 excess = A + C log10 number" in each for each in captions)


def test_calibrations_reach_mlflow_under_their_label(
    answered: tuple[Plan, StudyResults, Answers],
) -> None:
    """No number of a formula is published without its word."""
    plan, _, answers = answered
    runs = {each.key: each for each in theory_runs(made_ledger(plan).committed(), answers=answers)}
    names = {point.name for point in runs["theory/average"].metrics}
    assert "score: stated form/calibration slope/stability" in names
    assert "bound: proved form/calibration R2/test loss" in names


def test_tasks_that_are_not_measured_leave_their_groups_out(plan: Plan) -> None:
    """A group is covered if all its tasks are; nothing measured covers none and says so."""
    whole = measurements(plan)
    (tasks,) = {each.tasks for each in whole.constants.values()}
    part = {
        name: replace(
            each,
            tasks=tasks[:2],
            metrics={task: each.metrics[task] for task in tasks[:2]},
            products=each.products[:2, :, :2],
        )
        for name, each in whole.constants.items()
    }
    found = evidence_of(plan, replace(whole, constants=part), results=NO_RESULTS, diverged=())
    (group,) = {group for _, _, group in found.bounds}
    assert next(each for each in plan.groups if each.name == group).tasks == tasks[:2]
    assert "mnist_5k" in str(found.bases)
    assert not evidence_of(plan, NOTHING_MEASURED, results=NO_RESULTS, diverged=()).bounds
