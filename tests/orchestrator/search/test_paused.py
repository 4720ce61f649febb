"""Collects garbage between two runs of a search, and finds its paused trials as they were."""

import time
from pathlib import Path

import pytest
from searched_study import run_search, search_fields

from orchestrator.plan.candidates import candidates_of
from orchestrator.run.opened import OpenedStudy
from orchestrator.upkeep.gc import collect
from workers.artifacts.layout import Layout
from workers.train.trainer import Trainer

pytestmark = pytest.mark.slow
NUM_TASKS = 3


def test_candidate_that_goes_on_keeps_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the stopped candidate loses its checkpoints, so that no step is trained twice."""
    steps: list[int] = []
    advance = Trainer.advance

    def counted(self: Trainer) -> None:
        advance(self)
        steps.append(self.step)

    monkeypatch.setattr(Trainer, "advance", counted)
    fields = search_fields(tmp_path / "store", budget={"candidates": 2}, batch=2)
    seen: list[OpenedStudy] = []
    run_search(fields, on_decision=seen.append, may_go_on=lambda: len(seen) < 2)
    stopped = seen[-1]
    (promoted,) = stopped.plan.decisions[-1].candidates
    collected = _collect(stopped)
    left = _in_flight(stopped)
    ended = run_search(fields)
    most = [max(each.rungs) for each in candidates_of(ended.plan.decisions)]

    assert [each.kind for each in stopped.plan.decisions] == ["propose", "promote"]
    assert len(left) == len(collected) == NUM_TASKS
    assert left == {
        expert.with_steps(8).id
        for setting, by_task in zip(
            stopped.plan.candidate_settings, stopped.plan.candidate_experts, strict=True
        )
        for expert in by_task.values()
        if setting.value == f"{promoted} at 4 steps"
    }
    assert len(steps) == NUM_TASKS * sum(most)
    assert _in_flight(ended) == set()


def test_decisions_leave_no_copies_of_the_plan(tmp_path: Path) -> None:
    """Each decision is a file; the plan is one file, whichever decision was the last."""
    fields = search_fields(tmp_path / "store", budget={"candidates": 2}, batch=2)
    opened = run_search(fields)
    folder = tmp_path / "store" / "studies" / "searched"

    assert len(list(folder.glob("search-*.json"))) == len(opened.plan.decisions) > 2
    assert [path.name for path in folder.glob("plan.json*")] == ["plan.json"]


def _collect(opened: OpenedStudy) -> list[str]:
    """Deletes all garbage, however young; returns the keys of the checkpoints."""
    store = opened.folder.store
    found = collect(store, min_age_s=0, now_s=time.time() + 60, dry_run=False)
    return [entry.key for entry in found.checkpoints]


def _in_flight(opened: OpenedStudy) -> set[str]:
    """Returns the ids under which the store has checkpoints."""
    keys = map(
        Layout.parse_in_flight_key,
        (entry.key for entry in opened.folder.store.list(Layout.in_flight())),
    )
    return {key.id for key in keys if key is not None}
