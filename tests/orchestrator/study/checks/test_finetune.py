from collections.abc import Callable
from typing import Any

import pytest
from study_problems import problems_of

from orchestrator.study.schema import Study

Fields = Callable[..., dict[str, Any]]
REGMEAN = [{"method": "regmean"}]
RECALIBRATED = [{"method": "average"}, {"method": "ties", "batch_norm": "recalibrate"}]


@pytest.mark.parametrize(
    ("finetune", "field", "said"),
    [
        ({"optimizer": {"sam_rho": -1}}, "optimizer.sam_rho", "0 or more"),
        ({"optimizer": {"name": "adam", "nesterov": True}}, "optimizer.nesterov", "only sgd"),
        ({"optimizer": {"momentum": 0, "nesterov": True}}, "optimizer.nesterov", "above 0"),
        ({"head": "frosen"}, "head", "did you mean 'frozen'?"),
        ({"head": {"mode": "frozen", "l2": 0}}, "head.l2", "more than 0"),
        ({"head": {"l2": 1}}, "head.l2", "only a linear probe uses it"),
        ({"average_weights": "mean"}, "average_weights", "none, ema, swa"),
        ({"average_weights": {"ema_decay": 0.9}}, "average_weights.ema_decay", "only"),
        (
            {"average_weights": {"mode": "ema", "swa_start": 0.9}},
            "average_weights.swa_start",
            "only `average_weights: swa` uses it",
        ),
        ({"axes": {"ema_decay": [0.9]}}, "axes.ema_decay", "would not change any expert"),
        (
            {"axes": {"swa_start": [0.5], "average_weights": ["none", "swa"]}},
            "axes.swa_start",
            "only `average_weights: swa` uses it; set that beside the axis",
        ),
        ({"schedule": "cosine", "warmup_steps": 10}, "warmup_steps", "expected less than 10"),
        (
            {"axes": {"schedule": ["constant", "linear"]}, "warmup_steps": 20},
            "warmup_steps",
            "a training of 10 steps with the schedule `linear`",
        ),
        ({"axes": {"augment": ["crop"]}}, "axes.augment[0]", "crop_flip"),
        ({"axes": {"linearised": [1]}}, "axes.linearised[0]", "true or false"),
        (
            {"linearised": True, "freeze_batch_norm": False},
            "freeze_batch_norm",
            "keeps the base's BatchNorm statistics",
        ),
        (
            {"axes": {"linearised": [True, False]}, "design": "random"},
            "axes.linearised",
            "all linearised or all not",
        ),
    ],
    ids=str,
)
def test_impossible_choice_is_one_problem(
    study_fields: Fields, finetune: dict[str, Any], field: str, said: str
) -> None:
    """A wrong field, or a pair of fields that do not fit, gives one problem with its remedy."""
    finetune = {"defaults": {"steps": 10}, **finetune}
    found = problems_of(study_fields(finetune=finetune))
    assert list(found) == [f"finetune.{field}"]
    assert said in found[f"finetune.{field}"]


@pytest.mark.parametrize(
    ("merge", "field"), [(REGMEAN, "merge[0].method"), (RECALIBRATED, "merge[1].batch_norm")]
)
@pytest.mark.parametrize("finetune", [{"linearised": True}, {"axes": {"linearised": [True]}}])
def test_merge_that_a_linearised_model_does_not_allow_is_refused(
    study_fields: Fields, finetune: dict[str, Any], merge: list[dict[str, Any]], field: str
) -> None:
    """The study is refused before anything is trained."""
    assert list(problems_of(study_fields(finetune=finetune, merge=merge))) == [field]


@pytest.mark.parametrize(
    "finetune",
    [
        {"optimizer": {"nesterov": True}, "axes": {"optimizer": ["sgd", "adam"]}},
        {"axes": {"head": ["trained", "frozen"]}, "head": {"l2": 0.1}},
        {"average_weights": {"mode": "ema", "ema_decay": 0.9}, "axes": {"ema_decay": [0.5]}},
        {
            "axes": {"swa_start": [0.5], "average_weights": ["none", "swa"]},
            "design": "grid",
        },
        {"warmup_steps": 100, "defaults": {"steps": 10}},
        {"linearised": True, "design": "random", "axes": {"lr": [0.1, 0.2]}},
    ],
    ids=str,
)
def test_choices_that_go_together_are_accepted(
    make_study: Callable[..., Study], finetune: dict[str, Any]
) -> None:
    """A value on an axis counts as present, and the study has the requested values."""
    read = make_study(finetune=finetune).finetune
    given = read.model_dump(exclude_unset=True)
    assert given.keys() >= finetune.keys()
    for name, value in finetune.items():
        if not isinstance(value, dict):
            assert given[name] == value
