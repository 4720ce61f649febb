"""What each algorithm proposes: at random, in a grid's order, and from scores by Optuna."""

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from orchestrator.plan.candidates import Candidate
from orchestrator.search.scores import At, Score
from orchestrator.search.searchers import grid, proposed
from orchestrator.search.space import drawn
from orchestrator.study.schema import Study

TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_validation": 20}
SPACE = {"lr": {"log": [1e-4, 1e-1]}, "batch_size": {"choice": [4, 8, 16]}}
BEST_LR = 0.01


@pytest.fixture
def searched(make_study: Callable[..., Study]) -> Callable[..., Study]:
    """Returns a function that makes a study with a search."""

    def make(**search: object) -> Study:
        fields = {"space": SPACE, "budget": {"candidates": 30}, **search}
        return make_study(tasks=TASKS, search=fields)

    return make


def test_random_candidate_depends_on_its_number_alone(searched: Callable[..., Study]) -> None:
    """Other sizes of batches and other budgets leave candidates as they are."""
    few = proposed(searched(batch=2), count=2, candidates=(), scores={})
    many = proposed(searched(batch=9), count=9, candidates=(), scores={})

    assert many[:2] == few
    assert len({each["lr"] for each in many}) == len(many)
    assert all(1e-4 <= each["lr"] <= 1e-1 for each in many)
    assert all(each["batch_size"] in {4, 8, 16} for each in many)


def test_each_task_has_a_value_of_its_own(searched: Callable[..., Study]) -> None:
    """A hyperparameter of `per_task` is one dimension per task."""
    values = drawn(searched(per_task=["lr"]), number=0)

    assert sorted(values) == ["batch_size", "lr@emoji_objects", "lr@font_letters", "lr@mnist_5k"]
    assert len({values[name] for name in values if name != "batch_size"}) == len(TASKS["names"])


def test_grid_has_all_combinations_in_their_order(searched: Callable[..., Study]) -> None:
    """The last hyperparameter varies fastest; batches are slices, and the last one is shorter."""
    space = {"weight_decay": {"choice": [0, 0.1]}, "batch_size": {"int": [4, 6]}}
    study = searched(space=space, algorithm="grid")
    first = proposed(study, count=4, candidates=(), scores={})
    candidates = _candidates(first)

    assert len(grid(study)) == 6
    assert first[:2] == [
        {"batch_size": 4, "weight_decay": 0.0},
        {"batch_size": 4, "weight_decay": 0.1},
    ]
    assert isinstance(first[0]["weight_decay"], float)
    assert len(proposed(study, count=4, candidates=candidates, scores={})) == 2


@pytest.mark.parametrize("algorithm", ["tpe", "gp"])
@pytest.mark.slow
def test_searcher_proposes_near_the_best_scores(
    searched: Callable[..., Study], algorithm: str
) -> None:
    """From the same scores it proposes the same candidates, nearer to the best rate than random."""
    pytest.importorskip("optuna")
    study = searched(algorithm=algorithm, halving={"first": 2, "factor": 5})
    candidates = _candidates([drawn(study, number=number) for number in range(20)])
    scores = _scores(candidates)
    first = proposed(study, count=6, candidates=candidates, scores=scores)
    again = proposed(study, count=6, candidates=candidates, scores=scores)

    of_random = statistics.mean(_distance(each.values) for each in candidates)

    assert first == again
    assert statistics.mean(map(_distance, first)) < of_random
    assert all(each not in [dict(one.values) for one in candidates] for each in first)


def _candidates(values: list[dict[str, Any]]) -> tuple[Candidate, ...]:
    """Returns candidates of which the best quarter has reached the second rung."""
    best = sorted(values, key=_distance)[: len(values) // 4]
    return tuple(
        Candidate(number=number, values=each, rungs=(2, 10) if each in best else (2,))
        for number, each in enumerate(values)
    )


def _distance(values: Mapping[str, Any]) -> float:
    """Returns how far a learning rate is from the best one, in powers of ten."""
    return abs(math.log10(values.get("lr", BEST_LR) / BEST_LR))


def _scores(candidates: tuple[Candidate, ...]) -> Mapping[At, Score]:
    """Returns scores that are best at one rate, and better after more steps."""
    return {
        (each.number, steps): Score(objective=badness, method="average", badness=badness)
        for each in candidates
        for steps in each.rungs
        if (badness := _distance(each.values) + 1 / (steps or 1))
    }
