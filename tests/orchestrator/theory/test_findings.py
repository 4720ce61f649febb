import math
from collections.abc import Callable

import pyarrow as pa
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


def falling(index: int, _: str, method: str, task: str) -> float:
    wiggle = 0.01 * math.sin(7 * index + ord(task) + len(method))
    return (1.5 + 0.1 * ord(task) - 9.7) * 2.0**-index + wiggle + 0.3 * (method == "ties")


@pytest.fixture(scope="module")
def answers(make_results: Callable[..., pa.Table]) -> Answers:
    """Returns the answers of a study whose loss halves when the learning rate doubles."""
    training = ExpertTraining(
        steps=10,
        batch_size=8,
        lr=0.01,
        momentum=0.9,
        is_adam=True,
        num_examples=50,
        accumulation=sgd([1.0] * 10),
    )
    trainings = {f"lr={lr}": dict.fromkeys("abcd", training) for lr in LRS}
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
