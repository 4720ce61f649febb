"""Candidates that are drawn by the theory's prediction of their merges."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measured_tasks import measured_tasks
from searched_study import opened_search, run_search, search_fields

from orchestrator.bounds.merge_bounds import bounds_of
from orchestrator.bounds.merge_setting import merge_setting_of
from orchestrator.cli.verbs.measure import wanted_of
from orchestrator.plan.candidates import Decision, candidates_of
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.record.task_constants import MeasuredTasks
from orchestrator.run.growth import check_constants
from orchestrator.search.decide import first_decision
from orchestrator.search.prior import Form, Prior, predicted_scores
from orchestrator.search.space import drawn
from orchestrator.search.summary import search_summary
from orchestrator.study.problems import StudyError
from orchestrator.study.schema import Study
from orchestrator.tracking.search_runs import search_runs
from workers.artifacts.node_cache import cache_root
from workers.measure.constants import measure_constants
from workers.workspace import Workspace

TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_validation": 20}
SPACE = {"lr": {"log": [1e-5, 1e-1]}, "batch_size": {"choice": [4, 8, 16]}}
TUNED = {"method": "task_arithmetic", "scaling": {"tune": [0.3, 0.6]}}
POOL = 5


@pytest.fixture
def searched(make_study: Callable[..., Study]) -> Callable[..., Study]:
    """Returns a function that makes a study whose search has a prior."""

    def make(*, form: Form = "proved", merge: Sequence[Any] = (TUNED,), **search: object) -> Study:
        fields = {
            "space": SPACE,
            "budget": {"candidates": 12},
            "prior": {"form": form, "pool": POOL},
            **search,
        }
        defaults = {"steps": 20, "lr": 0.01, "batch_size": 8}
        finetune = {"optimizer": {"name": "sgd"}, "defaults": defaults}
        return make_study(tasks=TASKS, search=fields, merge=list(merge), finetune=finetune)

    return make


def constants_of(plan: Plan, *, curvature: float | None = 2.0) -> MeasuredTasks:
    """Returns constants of gradients that stand out of their noise."""
    rng = np.random.default_rng(0)
    num_tasks = len(plan.study.task_names)
    own, noise = rng.standard_normal((num_tasks, 1, 50)), rng.standard_normal((num_tasks, 4, 50))
    gradients = own + 0.1 * noise
    products = np.einsum("iqd,jrd->iqjr", gradients, gradients)
    return replace(measured_tasks(plan, curvature=curvature), products=products)


def plan_of(study: Study, values: Sequence[dict[str, Any]]) -> Plan:
    """Returns a plan with these candidates after the whole training."""
    numbers = tuple(range(len(values)))
    proposal = Decision(kind="propose", candidates=numbers, steps=None, values=tuple(values))
    return build_plan(study, decisions=[proposal])


def prior_of(study: Study) -> Prior:
    """Returns the prior with invented constants."""
    return Prior(
        make_plan=lambda decisions: build_plan(study, decisions=decisions),
        measured=constants_of,
    )


def score_by_hand(study: Study, values: dict[str, Any], *, form: Form) -> float:
    """Returns the mean of the bound over the groups, each an average of its experts."""
    plan = plan_of(study, [values])
    found = []
    for cell in plan.candidate_cells:
        if cell.merge.method == "average":
            setting = merge_setting_of(cell.merge, plan=plan)
            assert setting is not None
            bounds = bounds_of(cell.merge, setting, measured=constants_of(plan))
            excess = bounds.excess if form == "proved" else bounds.stated_excess
            found.append(excess.value)
    assert len(found) == len(plan.groups)
    return statistics.fmean(found)


@pytest.mark.parametrize("form", ["proved", "stated"])
def test_each_candidate_is_the_best_predicted_point_of_its_pool(
    searched: Callable[..., Study], form: Form
) -> None:
    """The score is the mean over the groups of the bound of the average."""
    study = searched(form=form, merge=[{"method": "average"}])
    decision = first_decision(study, prior=prior_of(study))
    for number, (values, predicted) in enumerate(
        zip(decision.values, decision.predicted, strict=True)
    ):
        pool = [drawn(study, number=number, again=again) for again in range(POOL)]
        scores = [score_by_hand(study, each, form=form) for each in pool]
        assert len(set(scores)) == POOL
        assert predicted == pytest.approx(min(scores))
        assert values == pool[scores.index(min(scores))]


def test_the_first_point_of_a_pool_is_that_of_a_search_without_a_prior(
    searched: Callable[..., Study],
) -> None:
    """With equal predictions nothing changes, and no decision without a prior has predictions."""
    study = searched()
    plain = first_decision(searched(prior=None))
    constant = Prior(
        make_plan=lambda decisions: build_plan(study, decisions=decisions),
        measured=lambda plan: constants_of(plan, curvature=None),
    )
    unknown = first_decision(study, prior=constant)
    assert unknown.values == plain.values
    assert set(unknown.predicted) == {None}
    assert "predicted" not in plain.to_json()
    assert Decision.from_json(unknown.to_json()) == unknown


def test_candidates_do_not_depend_on_batches(searched: Callable[..., Study]) -> None:
    """Two batches propose what one of their size together proposes."""
    study = searched()
    prior = prior_of(study)
    together, _ = prior.drawn(study, count=6, candidates=())
    first, _ = prior.drawn(study, count=2, candidates=())
    proposal = Decision(kind="propose", candidates=(0, 1), steps=None, values=tuple(first))
    rest, _ = prior.drawn(study, count=4, candidates=candidates_of([proposal]))
    assert [*first, *rest] == together


def test_no_point_is_a_candidate_twice_while_others_are_left(
    searched: Callable[..., Study],
) -> None:
    """In a space of six points the best one is proposed once."""
    space = {"lr": {"choice": [0.001, 0.01, 0.1]}, "batch_size": {"choice": [4, 8]}}
    study = searched(space=space, prior={"pool": 60}, batch=6, budget={"candidates": 6})
    decision = first_decision(study, prior=prior_of(study))
    assert len({tuple(each.values()) for each in decision.values}) == 6


def test_tuned_methods_are_predicted_by_the_average(searched: Callable[..., Study]) -> None:
    """A method whose coefficients are known comes first, wherever it stands."""
    point = {"lr": 0.01, "batch_size": 8}
    scores = {
        name: predicted_scores(plan, measured=constants_of(plan), form="proved")
        for name, merge in {
            "tuned": [TUNED],
            "average": [{"method": "average"}],
            "both": [TUNED, {"method": "task_arithmetic", "scaling": 0.9}],
            "fixed": [{"method": "task_arithmetic", "scaling": 0.9}],
        }.items()
        for plan in [plan_of(searched(merge=merge), [point])]
    }
    assert scores["tuned"] == scores["average"]
    assert scores["both"] == scores["fixed"] != scores["average"]


@pytest.mark.slow
def test_a_search_waits_for_its_constants_and_then_ends_the_same_after_a_kill(
    tmp_path: Path,
) -> None:
    """The error names the commands; the table, the words and MLflow have the predictions."""
    fields = search_fields(tmp_path / "store", prior={"pool": 3}, budget={"candidates": 4})
    prepared = run_search(fields)  # ends once the images are prepared
    assert prepared.plan.decisions == ()
    with pytest.raises(StudyError, match="measure searched --curvature --store"):
        check_constants(prepared.plan, store_url=prepared.store_url)

    reopened = opened_search(fields)
    wanted = wanted_of(reopened.ledger.committed(), curvature=True, leave_one_out=False)
    cpu = torch.device("cpu")
    workspace = Workspace(reopened.store_url, cache_root=cache_root(), device=cpu)
    assert {spec.sample.task for spec in wanted.constants} == set(fields["tasks"]["names"])
    for spec in wanted.constants:
        measure_constants(spec, workspace=workspace)

    left = iter([True] * 5)
    killed = run_search(fields, may_go_on=lambda: next(left, False))
    ended = run_search(fields)
    check_constants(ended.plan, store_url=ended.store_url)
    first = ended.plan.decisions[0]
    assert killed.plan.decisions == ended.plan.decisions[: len(killed.plan.decisions)]
    assert ended.plan.decisions[-1].kind == "choose"
    assert len(first.predicted) == 4
    committed = ended.ledger.committed()
    summary = search_summary(committed)
    assert summary is not None
    rows = summary.candidates.to_pylist()
    assert [row["prior"] for row in rows if row["rung"] == 0] == list(first.predicted)
    (line,) = (line for line in summary.lines if line.startswith("prior: "))
    assert "over 4 candidates after 2 steps (1: best first)" in line
    runs = list(search_runs(committed, summary=summary))
    assert {p.value for run in runs for p in run.metrics if p.name == "prior"} == {
        each for each in first.predicted if each is not None
    }
