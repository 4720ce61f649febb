"""A search under a budget of hours: which batches it has room for, and where it ends."""

from collections.abc import Callable
from pathlib import Path

import pytest
from searched_study import run_search, search_fields

from orchestrator.plan.candidates import Decision
from orchestrator.run.opened import OpenedStudy
from orchestrator.search.decide import is_over
from orchestrator.search.spending import Spent, num_with_room, spent_so_far
from orchestrator.search.words import search_lines, search_plan_lines
from orchestrator.study.schema import Study

HOUR_S = 3600.0
NUM_TASKS = 3
TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_validation": 20}
# Each step took 0.01 h of a worker, and the merges of a candidate at a rung 0.1 h.
SPENT = Spent(num_steps=100, train_s=HOUR_S, num_merged=5, merge_s=0.5 * HOUR_S)


def _study(make_study: Callable[..., Study], **search: object) -> Study:
    """Returns a study whose candidates take at most 10 steps for each of three tasks."""
    return make_study(
        tasks=TASKS,
        search={"space": {"lr": {"log": [1e-4, 1e-1]}}, **search},
        resources={"trial": {"cpu": 2, "gpu": 0.5}, "merge": {"cpu": 1, "gpu": 0.25}},
    )


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        # A candidate takes 30 steps and one merge: 0.3 h and 0.1 h of workers, which are
        # 0.175 GPU-hours and 0.7 core-hours. 0.625 and 2.5 of them are spent.
        ({"gpu_hours": 0.625 + 0.174}, 0),
        ({"gpu_hours": 0.625 + 0.176}, 1),
        ({"gpu_hours": 0.625 + 3.4 * 0.175}, 3),
        ({"cpu_hours": 2.5 + 2.9 * 0.7}, 2),
        ({"cpu_hours": 2.5 + 2.9 * 0.7, "gpu_hours": 0.625 + 1.5 * 0.175}, 1),
        ({"cpu_hours": 100}, 8),
        ({"cpu_hours": 100, "steps": 100 + 5 * 30}, 5),
    ],
)
def test_batch_has_as_many_candidates_as_probably_fit(
    make_study: Callable[..., Study], budget: dict[str, float], expected: int
) -> None:
    """The rest of every limit has room for one more candidate, or the batch ends there."""
    assert num_with_room(_study(make_study, budget=budget), spent=SPENT, most=8) == expected


@pytest.mark.parametrize(("rung", "expected"), [(0, 2), (1, 3)])
def test_halving_counts_what_each_rung_may_take(
    make_study: Callable[..., Study], rung: int, expected: int
) -> None:
    """Rungs are at 5 and 10 steps, and half of the candidates go on to the second one.

    From the first rung, n candidates take 15 n + 15 max(1, n // 2) steps: 0.15 h each, and 0.1 h
    for every merged candidate. From the second rung they take 15 n steps.
    """
    budget = {"cpu_hours": 2.5 + 3.1 * (2 * 0.15 + 0.1)}
    study = _study(make_study, budget=budget, halving={"factor": 2, "first": 5})

    assert num_with_room(study, spent=SPENT, most=8, rung=rung) == expected


def test_first_batch_is_begun_whole(make_study: Callable[..., Study]) -> None:
    """Before any trial is committed, nothing says how long a candidate takes."""
    study = _study(make_study, budget={"gpu_hours": 1e-9})

    assert num_with_room(study, spent=Spent(), most=8) == 8


def test_batch_that_takes_too_long_is_not_trained_further(tmp_path: Path) -> None:
    """The times of its first rung leave no room for the next one: its best candidate wins."""
    opened = run_search(search_fields(tmp_path / "store", budget={"cpu_hours": 1e-9}, batch=2))

    assert _shown(opened.plan.decisions) == [("propose", 2, 2), ("choose", 1, 2)]
    assert opened.reopened().is_finished()


def test_raised_hours_let_a_search_go_on(tmp_path: Path) -> None:
    """Another batch is as large as the measured times allow, and then the search has ended."""
    fields = search_fields(tmp_path / "store", budget={"candidates": 2}, batch=2)
    first = run_search(fields)
    spent = spent_so_far(first.ledger.committed())
    num_steps, num_merged = NUM_TASKS * (2 * 2 + 2 + 4), 2 + 1 + 1
    hours = (spent.train_s + spent.merge_s) / HOUR_S
    fields["search"]["budget"] = {"cpu_hours": 1.9 * hours}
    opened = run_search(fields)
    decisions = opened.plan.decisions
    end = spent_so_far(opened.ledger.committed())

    assert (spent.num_steps, spent.num_merged) == (num_steps, num_merged)
    # A whole batch would take as much again; one candidate alone takes 8 of the 10 steps.
    assert decisions[: len(first.plan.decisions)] == first.plan.decisions
    assert _shown(decisions[len(first.plan.decisions) :])[0] == ("propose", 1, 2)
    assert end.num_steps > num_steps
    assert is_over(opened.reopened().ledger.committed())
    assert _words(opened)[0].endswith(f"of {1.9 * hours:g} CPU-core-hours")
    assert _words(opened)[1].endswith(f"until {1.9 * hours:g} CPU-core-hours")


def _shown(decisions: tuple[Decision, ...]) -> list[tuple[str, int, int | None]]:
    return [(each.kind, len(each.candidates), each.steps) for each in decisions]


def _words(opened: OpenedStudy) -> list[str]:
    """Returns the lines on a search of `status` and of `plan`."""
    committed = opened.ledger.committed()
    return [search_lines(committed)[0], search_plan_lines(committed.plan)[0]]
