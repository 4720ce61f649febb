"""Whole searches of a tiny study: what they train, choose, read, and do after a kill."""

import io
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console
from searched_study import opened_search, run_search, search_fields

from eval.images.split import Split
from orchestrator.cli.verbs.results import write_winner
from orchestrator.plan.candidates import Decision, candidates_of
from orchestrator.plan.plan import build_plan
from orchestrator.record.committed import Committed
from orchestrator.record.holes import Hole
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.write_outputs import report_page
from orchestrator.search.decide import incumbent
from orchestrator.search.scores import scores_of
from orchestrator.search.spending import spent_so_far
from orchestrator.search.summary import importances, search_summary
from orchestrator.search.table import candidates_table
from orchestrator.study.reader import parse_study
from orchestrator.tracking.search_runs import search_runs
from orchestrator.upkeep.verify import verify
from workers.store.opening import open_store
from workers.train.trainer import Trainer
from workers.workspace import Workspace

pytestmark = pytest.mark.slow
RUNGS = (2, 4, 8)
NUM_TASKS = 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> OpenedStudy:
    """Runs a search to its end once."""
    return run_search(search_fields(tmp_path_factory.mktemp("finished") / "store"))


def test_batches_are_halved_in_turn_and_the_best_wins(finished: OpenedStudy) -> None:
    """Four candidates, then the last two of the budget, each batch halved at every rung."""
    kinds = [(each.kind, len(each.candidates), each.steps) for each in finished.plan.decisions]
    winner = finished.plan.decisions[-1]

    assert kinds[:-1] == [
        ("propose", 4, 2),
        ("promote", 2, 4),
        ("promote", 1, 8),
        ("propose", 2, 2),
        ("promote", 1, 4),
        ("promote", 1, 8),
    ]
    assert winner.kind == "choose"
    assert (winner.candidates[0], winner.steps) == incumbent(scores_of(_committed(finished)))


def test_best_candidates_are_promoted(finished: OpenedStudy) -> None:
    """Those that go on have better scores than all others of their batch at that rung."""
    scores = scores_of(_committed(finished))
    first, second = finished.plan.decisions[:2]
    stopped = set(first.candidates) - set(second.candidates)

    assert max(scores[each, 2].badness for each in second.candidates) <= min(
        scores[each, 2].badness for each in stopped
    )


def test_no_step_is_trained_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer takes as many steps as the longest trials of all candidates have."""
    taken: list[int] = []
    advance = Trainer.advance

    def counted(self: Trainer) -> None:
        advance(self)
        taken.append(self.step)

    monkeypatch.setattr(Trainer, "advance", counted)
    opened = run_search(search_fields(tmp_path / "store"))
    most = [max(each.rungs) for each in candidates_of(opened.plan.decisions)]

    assert len(taken) == NUM_TASKS * sum(most) == spent_so_far(_committed(opened)).num_steps


def test_results_are_those_of_the_winner_on_test_images(finished: OpenedStudy) -> None:
    """The tables have one setting, with scores of 12 test images per task."""
    results = StudyResults.of(_committed(finished))
    rows = results.rows.to_pylist()
    number = finished.plan.decisions[-1].candidates[0]

    assert {row["setting"] for row in rows} == {f"candidate={number}"}
    assert {row["num_examples"] for row in rows if row["task"] not in {"macro", "union"}} == {12}
    assert len(rows) == 3 * 2 * (2 + 2)  # groups x methods x (tasks and means)
    assert {row["num_examples"] for row in results.experts.to_pylist()} == {12}
    assert _holes(finished) == ()


def test_finished_search_has_nothing_left(finished: OpenedStudy) -> None:
    """A study that is opened again has the same decisions and takes no further one."""
    again = finished.reopened()

    assert again.is_finished()
    assert again.plan.decisions == finished.plan.decisions


class _UnreadableError(Exception):
    """A test image was read before the search had ended."""


def test_no_test_image_is_read_before_the_winner_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the test images fails until the last decision, and the search ends all the same."""
    decisions: list[Decision] = []
    read_after: list[str] = []
    split = Workspace.split

    def guarded(self: Workspace, data_id: str, name: str) -> Split:
        if name == "test":
            if decisions[-1].kind != "choose":
                raise _UnreadableError
            read_after.append(data_id)
        return split(self, data_id, name)

    monkeypatch.setattr(Workspace, "split", guarded)
    opened = run_search(
        search_fields(tmp_path / "store"),
        on_decision=lambda study: decisions.append(study.plan.decisions[-1]),
    )

    assert opened.reopened().is_finished()
    assert len(set(read_after)) == NUM_TASKS


def test_killed_search_ends_with_the_same_bytes(finished: OpenedStudy, tmp_path: Path) -> None:
    """A run that ends after every few jobs, and is begun again, gives the same tables."""
    fields = search_fields(tmp_path / "store")
    num_runs = 0

    def few_jobs() -> Iterator[bool]:
        yield from [True] * 5
        yield False

    opened = opened_search(fields)
    while not opened.is_finished():
        jobs = few_jobs()
        run_search(fields, may_go_on=lambda jobs=jobs: next(jobs))
        opened, num_runs = opened_search(fields), num_runs + 1
    expected = StudyResults.of(_committed(finished))
    found = StudyResults.of(_committed(opened))

    assert num_runs > len(RUNGS)
    assert opened.plan.decisions == finished.plan.decisions
    assert found.rows.equals(expected.rows)
    assert found.experts.equals(expected.experts)


def test_candidates_wait_until_their_batch_is_decided(finished: OpenedStudy) -> None:
    """Scores alone stop nobody: the next decision does."""
    plan, committed = finished.plan, _committed(finished)
    early = build_plan(plan.study, groups=plan.groups, decisions=plan.decisions[:1])
    rows = candidates_table(replace(committed, plan=early)).to_pylist()

    assert [row["outcome"] for row in rows] == ["waits"] * 4


def test_damaged_decision_is_taken_out_and_taken_again(tmp_path: Path) -> None:
    """`verify` names and withdraws it; the next run decides the same and trains nothing."""
    fields = search_fields(tmp_path / "store", budget={"candidates": 2}, batch=2)
    opened = run_search(fields)
    decisions = opened.plan.decisions
    path = tmp_path / "store" / "studies" / "searched" / "search-0002.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"promote", b"promove"))
    report = verify(open_store(opened.store_url), "searched", withdraw=True)
    again = run_search(fields, may_go_on=lambda: False)

    assert [fault.id for fault in report.faults] == [path.name]
    assert path.read_bytes() == content
    assert again.reopened().plan.decisions == decisions


def test_report_has_a_chapter_on_the_search(finished: OpenedStudy) -> None:
    """It has both figures, the best candidate and the table, and no part that failed."""
    page = report_page(finished, results=StudyResults.of(_committed(finished)))
    chapter = page[page.index('<section id="search">') :].partition("</section>")[0]

    assert chapter.count("<svg") == 2
    assert "best: candidate" in chapter
    assert "trained_steps" in chapter
    assert "could not" not in chapter


def test_importance_of_what_decides_is_greatest(finished: OpenedStudy) -> None:
    """Where the objective follows the learning rate alone, the batch size explains nothing."""
    summary = search_summary(_committed(finished))
    assert summary is not None
    draw = random.Random(0)
    rows = [
        {
            "candidate": number,
            "rung": 0,
            "objective": abs(math.log10(lr) + 2),
            "lr": lr,
            "batch_size": draw.choice([4, 8]),
        }
        for number in range(30)
        if (lr := 10 ** draw.uniform(-4, -1))
    ]
    made = replace(summary, candidates=pa.Table.from_pylist(rows))
    few = replace(summary, candidates=pa.Table.from_pylist(rows[:9]))

    noise = [row | {"objective": draw.gauss(0, 1)} for row in rows]
    unrelated = replace(summary, candidates=pa.Table.from_pylist(noise))

    found = importances(made)
    assert list(found) == ["lr", "batch_size"]
    assert 0.8 < found["lr"] < 1.1
    assert found["batch_size"] < 0.05
    assert importances(few) == {}
    assert max(importances(unrelated).values()) < 0.2


def test_mlflow_gets_a_run_per_candidate_and_rung(finished: OpenedStudy) -> None:
    """Values, candidate and rung are parameters; the objective is a metric."""
    committed = _committed(finished)
    summary = search_summary(committed)
    assert summary is not None
    runs = list(search_runs(committed, summary=summary))
    params = [dict(run.params) for run in runs]

    assert len(runs) == summary.candidates.num_rows == 4 + 2 + 1 + 2 + 1 + 1
    assert {"candidate", "rung", "steps", "lr", "batch_size"} <= params[0].keys()
    assert {point.name for point in runs[0].metrics} == {"validation_loss", "trained_steps"}


def test_winner_is_fixed_by_a_study_file(finished: OpenedStudy, tmp_path: Path) -> None:
    """The file has the winner's hyperparameters and method, and no search."""
    path = tmp_path / "winner.yaml"
    code = write_winner(finished, path=path, console=Console(file=io.StringIO()))
    study = parse_study(path.read_text(), source="winner.yaml")
    (setting,) = build_plan(study).settings
    (expected,) = finished.plan.settings

    assert code == 0
    assert study.search is None
    assert study.name == "searched-winner"
    assert len(study.merge) == 1
    assert setting.shared_point == expected.shared_point


def _committed(opened: OpenedStudy) -> Committed:
    return opened.ledger.committed()


def _holes(opened: OpenedStudy) -> tuple[Hole, ...]:
    return opened.ledger.state().holes()
