"""Bad `search` sections are refused with all of their problems, and what would be right."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study

TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_validation": 20}
GOOD: dict[str, Any] = {"space": {"lr": {"log": [1e-4, 1e-1]}}, "budget": {"candidates": 4}}


@pytest.fixture
def problems(study_fields: Callable[..., dict[str, Any]]) -> Callable[..., list[str]]:
    """Returns a function that gives the problems of a study with a search, as users read them."""

    def read(search: dict[str, Any], **changes: object) -> list[str]:
        fields = study_fields(tasks=TASKS, search={**GOOD, **search}, **changes)
        try:
            parse_study(yaml.safe_dump(fields), source="study.yaml")
        except StudyError as error:
            return [str(each) for each in error.problems]
        return []

    return read


@pytest.mark.parametrize(
    ("search", "field", "remedy"),
    [
        ({"space": {}}, "search.space", "a mapping with at least one"),
        ({"batch": 100_001}, "search.batch", "expected 100000 or less"),
        (
            {"algorithm": "grid", "space": {"batch_size": {"int": [1, 10**9]}}},
            "search.algorithm",
            "it has 1,000,000,000 candidates, and 100,000 are the most; list fewer values, or take",
        ),
        (
            {
                "algorithm": "grid",
                "per_task": ["batch_size"],
                "space": {"batch_size": {"int": [1, 100]}},
            },
            "search.algorithm",
            "it has 1,000,000 candidates",
        ),
        (
            {"prior": {}, "algorithm": "grid", "space": {"lr": {"choice": [0.1]}}},
            "search.prior",
            "a grid has no random candidates; leave the prior out",
        ),
        (
            {"prior": {}, "space": {"augment": {"choice": ["none", "flip"]}}},
            "search.prior",
            "those of one augmentation",
        ),
        ({"prior": {"pool": 1}}, "search.prior.pool", "2 or more"),
        ({"prior": {"form": "best"}}, "search.prior.form", "proved"),
        ({"space": {"lr": {"log": [0, 0.1]}}}, "search.space.lr", "bounds above 0"),
        ({"space": {"lr": {"log": [0.1, 0.1]}}}, "search.space.lr", "the lower one first"),
        ({"space": {"lr": {"log": [0.1]}}}, "search.space.lr", "two bounds"),
        ({"space": {"lr": {"uniform": [0, 1], "log": [1, 2]}}}, "search.space.lr", "one range"),
        ({"space": {"lr": {"choice": []}}}, "search.space.lr.choice", "at least one"),
        ({"space": {"lr": {"uniform": [0.5, 200]}}}, "search.space.lr.uniform[1]", "values that"),
        ({"space": {"rate": {"log": [0.1, 1]}}}, "search.space.rate", "nown hyperparameters"),
        ({"space": {"method": {"choice": ["ties"]}}}, "search.space.method", "`merge`"),
        ({"space": {"ties.density": {"uniform": [0, 1]}}}, "search.space.ties.density", "{tune:"),
        ({"space": {"batch_size": {"log": [8, 64]}}}, "search.space.batch_size", "whole number"),
        ({"space": {"optimizer": {"int": [1, 2]}}}, "search.space.optimizer", "choice"),
        ({"space": {"head": {"choice": ["fixed"]}}}, "search.space.head.choice[0]", "values that"),
        ({"space": {"ema_decay": {"uniform": [0.5, 0.9]}}}, "search.space.ema_decay", "ema"),
        (
            {"objective": {"metric": "f1"}},
            "search.objective.metric",
            "known values: loss, accuracy",
        ),
        ({"budget": {}}, "search.budget", "`candidates`, `steps`"),
        ({"budget": {"gpu_hours": 1}}, "search.budget.gpu_hours", "limit cpu_hours instead"),
        ({"budget": {"cpu_hours": 0}}, "search.budget.cpu_hours", "more than 0"),
        ({"budget": {"steps": 29}}, "search.budget.steps", "expected 30 or more"),
        ({"halving": {"first": 10}}, "search.halving.first", "expected 3 or less"),
        ({"halving": {"first": 2, "factor": 50}}, "search.halving.factor", "expected 5 or less"),
        ({"halving": {"first": 2, "factor": 1}}, "search.halving.factor", "expected 2 or more"),
        ({"per_task": ["steps"]}, "search.per_task[0]", "nown names in search.space"),
        ({"algorithm": "guess"}, "search.algorithm", "known values: random"),
    ],
)
def test_wrong_field_is_named_with_a_remedy(
    problems: Callable[..., list[str]], search: dict[str, Any], field: str, remedy: str
) -> None:
    """One problem, at the field that is wrong, with what would be right."""
    (problem,) = problems(search)

    assert problem.startswith(f"{field}: ")
    assert remedy in problem


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"finetune": {"defaults": {"steps": 9}, "axes": {"lr": [0.1]}}}, "finetune.axes"),
        ({"backbone": {"axes": {"model": ["test_resnet"]}}}, "backbone.axes"),
        ({"groups": {"sizes": [2, 3]}}, "groups.sizes"),
    ],
)
def test_nothing_else_may_vary(
    problems: Callable[..., list[str]], changes: dict[str, Any], field: str
) -> None:
    """Axes, designs and sizes of groups do not go with a search."""
    found = problems({}, **changes)

    assert any(each.startswith(f"{field}: a study with a search varies nothing") for each in found)


def test_search_needs_validation_images(study_fields: Callable[..., dict[str, Any]]) -> None:
    """A study that holds none out is refused."""
    with pytest.raises(StudyError, match=r"give tasks\.max_validation the"):
        parse_study(yaml.safe_dump(study_fields(search=GOOD)), source="study.yaml")


def test_halving_refuses_what_depends_on_the_number_of_steps(
    problems: Callable[..., list[str]],
) -> None:
    """Neither steps in the space nor a decaying schedule go with halving."""
    halving = {"halving": {"first": 2}}
    with_steps = problems({**halving, "space": {"steps": {"choice": [5, 10]}}})
    decaying = problems({**halving, "space": {"schedule": {"choice": ["constant", "cosine"]}}})

    assert [each.partition(":")[0] for each in (*with_steps, *decaying)] == ["search.halving"] * 2


def test_rungs_grow_by_the_factor_and_end_with_a_whole_training(
    study_fields: Callable[..., dict[str, Any]],
) -> None:
    """Each rung is at least three times the one before; a batch brings one candidate to the end."""
    fields = study_fields(
        tasks=TASKS,
        finetune={"defaults": {"steps": 200}},
        search={**GOOD, "halving": {"first": 20}},
    )
    search = parse_study(yaml.safe_dump(fields), source="study.yaml").search

    assert search is not None
    assert search.rungs(200) == (20, 60, 200)
    assert search.rungs(180) == (20, 60, 180)
    assert search.batch_size(200) == 9
