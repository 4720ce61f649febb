"""Bad entries that choose steps."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from study_problems import problems_of

from orchestrator.study.reader import parse_study

Fields = Callable[..., dict[str, Any]]
HELD_OUT = {"names": ["font_letters", "mnist_5k", "emoji_objects"], "max_validation": 20}
STEPS = {"defaults": {"lr": 0.01}, "axes": {"steps": [5, 10]}}


def changed_problems(study_fields: Fields, **changes: object) -> dict[str, str]:
    """Returns fault and remedy of each problem, by field."""
    fields = study_fields(**{"tasks": HELD_OUT, "finetune": STEPS, **changes})
    return problems_of(fields)


@pytest.mark.parametrize("rule", ["chosen", "stopped"])
def test_a_study_without_numbers_of_steps_is_told_to_list_them(
    study_fields: Fields, rule: str
) -> None:
    """The error gives the lines that are missing."""
    merge = [{"method": "average", "steps": rule}]
    found = changed_problems(study_fields, merge=merge, finetune={"axes": {"lr": [0.1, 0.2]}})
    assert list(found) == ["merge[0].steps"]
    assert f"'{rule}' is not allowed" in found["merge[0].steps"]
    assert "`finetune: {axes: {steps: [20, 40, 80]}}`" in found["merge[0].steps"]


def test_random_designs_have_no_common_numbers(study_fields: Fields) -> None:
    """Their tasks differ in their steps."""
    finetune = {**STEPS, "design": "random", "draws": 2}
    found = changed_problems(
        study_fields, merge=[{"method": "average", "steps": "chosen"}], finetune=finetune
    )
    assert "design: random has none" in found["merge[0].steps"]


def test_steps_and_parameters_are_chosen_together_by_loss_and_group(study_fields: Fields) -> None:
    """All problems come at once; the lack of validation images is one of them."""
    entry = {"method": "ties", "steps": "chosen", "scaling": {"tune": [0.1, 0.2]}}
    wrong = {**entry, "tuned_by": "accuracy", "tuned_over": "study"}
    found = changed_problems(study_fields, merge=[wrong], tasks=["font_letters", "mnist_5k"])
    assert "chooses by loss" in found["merge[0].tuned_by"]
    assert "for each group alone" in found["merge[0].tuned_over"]
    assert "give tasks.max_validation" in found["merge[0]"]
    fields = study_fields(tasks=HELD_OUT, finetune=STEPS, merge=[entry])
    (merge,) = parse_study(yaml.safe_dump(fields), source="study.yaml").merge
    assert (merge.step_rule, list(merge.tuned)) == ("chosen", ["scaling"])


@pytest.mark.parametrize(
    ("method", "steps", "remedy"),
    [
        ("average", "best", "expected chosen or stopped, for each task's steps"),
        ("average", 40, "expected chosen or stopped, for each task's steps"),
        ("adamerging", "best", "or a whole number from"),
    ],
)
def test_other_words_are_no_rule(
    study_fields: Fields, method: str, steps: object, remedy: str
) -> None:
    """A number is right for methods that have a parameter of that name."""
    found = changed_problems(study_fields, merge=[{"method": method, "steps": steps}])
    assert remedy in found["merge[0].steps"]


def test_a_method_with_steps_of_its_own_keeps_them(study_fields: Fields) -> None:
    """`steps: 5` is AdaMerging's number of steps, and no choice."""
    fields = study_fields(
        tasks=HELD_OUT,
        finetune=STEPS,
        merge=[
            {"method": "adamerging", "steps": 5},
            {"method": "adamerging", "steps": "chosen"},
        ],
    )
    study = parse_study(yaml.safe_dump(fields), source="study.yaml")
    assert [merge.step_rule for merge in study.merge] == [None, "chosen"]
    assert study.merge[0].params == {"steps": 5}
    assert study.merge[1].params == {}
