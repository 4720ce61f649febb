import math
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from eval.theory.accumulation import sgd
from orchestrator.theory.answers import Answers, compute_answers
from orchestrator.theory.features import ExpertTraining
from orchestrator.theory.findings import (
    DIFFERENCES,
    MISSING,
    RANKS,
    SHAPES,
    SKILL,
    findings,
    law_text,
)
from orchestrator.theory.forms import FORMS

LRS = ("0.001", "0.002", "0.004", "0.008")
TRAINING = ExpertTraining(
    steps=10,
    batch_size=8,
    lr=0.01,
    momentum=0.9,
    is_adam=True,
    num_examples=50,
    accumulation=sgd([1.0] * 10),
)


def falling(index: int, _: str, method: str, task: str) -> float:
    wiggle = 0.01 * math.sin(7 * index + ord(task) + len(method))
    return (1.5 + 0.1 * ord(task) - 9.7) * 2.0**-index + wiggle + 0.3 * (method == "ties")


@pytest.fixture(scope="module")
def answers(make_results: Callable[..., pa.Table]) -> Answers:
    """Returns the answers of a study whose loss halves when the learning rate doubles."""
    trainings = {f"lr={lr}": dict.fromkeys("abcd", TRAINING) for lr in LRS}
    table = make_results({"lr": LRS}, loss=falling, methods=("average", "ties"))
    return compute_answers(table, trainings=trainings)


def texts(answers: Answers, question: str) -> str:
    return "\n".join(each.text for each in findings(answers) if each.question == question)


def test_differences_name_best_values_and_methods(answers: Answers) -> None:
    """The best value and what it is told apart from; the methods by the settings that they win."""
    found = texts(answers, DIFFERENCES)
    assert "average along lr: least loss at 0.008, less than at 0.001, 0.002" in found
    assert (
        "average has the least loss of all methods at 4 of 4 settings, and less than every other "
        "method, beyond chance, at 4."
    ) in found


def test_laws_are_equations_with_their_errors(answers: Answers) -> None:
    """The preferred form stands beside constant and line; no optimum is seen where none is."""
    found = texts(answers, SHAPES)
    assert "average along x = lr: loss = " in found
    assert "beside constant" in found
    assert "No optimum seen up to 0.008" in found


def test_ranks_say_how_few_values_there_are(answers: Answers) -> None:
    """Four values allow no p below 0.083."""
    assert "(4 values: p is at least 0.083)" in texts(answers, RANKS)


def test_skill_says_that_no_predictor_beats_the_baselines(answers: Answers) -> None:
    """The hyperparameters of this study are the same at all settings: they predict nothing."""
    found = texts(answers, SKILL)
    assert "average, setting left out: no predictor beats the best baseline" in found
    assert " (score) (" in found


def test_every_note_is_said(make_results: Callable[..., pa.Table]) -> None:
    """What could not be computed is the last question."""
    single = compute_answers(make_results({"lr": ("0.1",)}, loss=falling), trainings={})
    found = list(findings(single))
    assert {each.question for each in found} == {MISSING}
    assert any("one setting" in each.text for each in found)


@pytest.mark.parametrize("form", FORMS)
def test_equations_give_the_form(form: str) -> None:
    """An equation, read as Python, has the values of its form."""
    params = [0.5, 0.25, 2.0][: FORMS[form].num_params]
    text = law_text({"form": form, "params": params}).removeprefix("loss = ")
    spelt = text.replace("^", "**").replace("ln x", "log(x)").replace("(log(x))", "log(x)")
    for product in (" x", " log"):
        spelt = spelt.replace(f"5{product}", f"5 *{product}").replace(
            f"2{product}", f"2 *{product}"
        )
        spelt = spelt.replace(f"9{product}", f"9 *{product}")
    expected = FORMS[form].predict(pa.array(params).to_numpy(), pa.array([3.0]).to_numpy())[0]
    found = eval(spelt, {"x": 3.0, "log": math.log})
    assert found == pytest.approx(expected, rel=1e-3)


def test_counts_of_one_and_several_predictors(make_results: Callable[..., pa.Table]) -> None:
    """One group is `1 group`, has no interval over groups, and several predictors `beat`."""
    table = make_results({"lr": LRS}, loss=falling)
    place, equal = table.schema.get_field_index("expert_loss"), pa.array([0.5] * len(table))
    table = table.set_column(place, table.schema.field(place), equal)
    one = table.filter(pc.equal(table["group"], "2x00"))
    trainings = {
        f"lr={lr}": dict.fromkeys("abcd", replace(TRAINING, lr=float(lr), steps=10)) for lr in LRS
    }
    found = compute_answers(one, trainings=trainings)
    assert " 1 group." in texts(found, DIFFERENCES)
    assert " beat the best baseline" in texts(found, SKILL)
    assert " beats " not in texts(found, SKILL)
    assert "beyond the interval over settings" in texts(found, SKILL)
    assert "three intervals" not in texts(found, SKILL)


def test_an_interval_beside_not_told_apart_says_why(make_results: Callable[..., pa.Table]) -> None:
    """Where the interval of a pair excludes 0, only the correction keeps the two together."""
    answers = compute_answers(
        make_results({"lr": LRS}, loss=lambda index, _, __, task: 2 + 0.03 * index * ord(task) % 7),
        trainings="none",
    )
    rows = {
        (row["other"], row["num_pairs"]): row
        for row in answers.rows("pairs")
        if (row["mean"], row["quantity"]) == ("macro", "loss")
    }
    for (other, num_pairs), row in rows.items():
        excludes = row["low"] > 0 or row["high"] < 0
        said = f"p {row['p_holm']:.3f}, corrected for {num_pairs} pairs"
        assert (said in texts(answers, DIFFERENCES)) == (excludes and row["p_holm"] >= 0.05), other


def test_a_method_that_failed_at_a_setting_is_named(make_results: Callable[..., pa.Table]) -> None:
    """The other methods are compared there, and the note says which one is left out."""
    table = make_results({"lr": LRS}, loss=falling, methods=("average", "ties", "dare"))
    failed = pc.and_(pc.equal(table["method"], "dare"), pc.equal(table["value"], "0.004"))
    answers = compute_answers(table.filter(pc.invert(failed)), trainings="none")
    assert "of 4 settings" in texts(answers, DIFFERENCES)
    assert "dare along lr: least loss at 0.008" in texts(answers, DIFFERENCES)
    assert "dare has no finite loss at lr=0.004: left out there" in texts(answers, MISSING)
