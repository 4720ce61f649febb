"""Resumes a study that pretrains its own bases; a worker in this process does all its jobs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from orchestrator.results.rows import results_table
from orchestrator.run.coordinator import preparation_jobs
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.study.reader import parse_study
from workers.artifacts.node_cache import CACHE_VARIABLE
from workers.process import Worker
from workers.train.checkpoint_interval import CheckpointInterval
from workers.train.trainer import Trainer

STUDY = """
name: bases
backbone:
  model: test_efficientnet
  weights: none
  image_size: 32
  pretrain: {{tasks: [mnist_5k, mnist_m], steps: 30, batch_size: 16, lr: 0.003}}
  axes: {{pretrain_steps: [10, 30], model: [test_efficientnet, test_resnet]}}
tasks: {{names: [mnist_5k, bluemarble_regions], max_train: 40, max_test: 48}}
finetune: {{defaults: {{steps: 3, batch_size: 8, lr: 0.01}}}}
groups: {{count: 1, size: 2}}
merge: [{{method: task_arithmetic, scaling: 0.5}}]
store: {store}
"""


@pytest.fixture
def opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], OpenedStudy]]:
    """Returns a function that opens the study in the store with a given name."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))

    def open_one(name: str) -> OpenedStudy:
        text = STUDY.format(store=tmp_path / name)
        return open_study(parse_study(text, source="test"), text=text)

    yield open_one
    torch.use_deterministic_algorithms(mode=False)


def run(opened: OpenedStudy) -> None:
    """Runs all remaining jobs; each round of trials gets a new worker without any cached state."""
    worker = Worker(opened.store_url, num_cpus=1)
    for job in preparation_jobs(opened.plan, done=opened.prepared):
        made = getattr(worker, job.kind.value)(job.argument)
        opened.ledger.add([*made][-1].committed if job.kind.reports_progress else made)
    while trials := opened.ledger.state().runnable_trainings:
        worker = Worker(opened.store_url, num_cpus=1)
        for trial in trials:
            for progress in worker.run_training(trial, report_every_s=1e9):
                for manifest in progress.committed:
                    opened.ledger.add(manifest)
    for merge in opened.ledger.state().ready_merges:
        opened.ledger.add(worker.run_merge(merge))


def test_study_over_bases_is_resumed_to_the_same_table(
    opened: Callable[[str], OpenedStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study killed in the middle of a pretraining resumes to the table of an undisturbed study.

    One training yields two bases (snapshots at steps 10 and 30); another model yields a third.
    """
    undisturbed = opened("a")
    run(undisturbed)
    assert undisturbed.ledger.state().is_finished
    assert undisturbed.ledger.state().holes() == ()
    with monkeypatch.context() as patch:
        _kill_at(14, patch=patch)
        with pytest.raises(KeyboardInterrupt):
            run(opened("b"))
    resumed = opened("b")
    committed = resumed.ledger.committed()
    assert len(committed.bases) == 2 + 1  # two initial bases and the snapshot at step 10
    assert [each.snapshots for each in committed.missing_trainings[:2]] == [(30,)] * 2
    run(resumed)
    table = results_table(resumed.ledger.committed())
    assert table.equals(results_table(undisturbed.ledger.committed()))
    _check_rows(table, opened=resumed)
    assert opened("b").is_finished()


def _kill_at(step: int, *, patch: pytest.MonkeyPatch) -> None:
    """Makes trainings write a checkpoint at a step and then raise an error that nothing catches."""
    advance = Trainer.advance
    patch.setattr(CheckpointInterval, "is_due", lambda _, trainer: trainer.step == step)

    def dying(trainer: Trainer) -> None:
        if trainer.step == step:
            raise KeyboardInterrupt
        advance(trainer)

    patch.setattr(Trainer, "advance", dying)


def _check_rows(table: pa.Table, *, opened: OpenedStudy) -> None:
    rows = [row for row in table.to_pylist() if row["task"] == "macro"]
    found = {row["setting"]: (row["backbone"], row["pretrain_steps"]) for row in rows}
    assert found == {
        "model=test_efficientnet": ("test_efficientnet", 30),
        "model=test_resnet": ("test_resnet", 30),
        "pretrain_steps=10": ("test_efficientnet", 10),
        "pretrain_steps=30": ("test_efficientnet", 30),
    }
    assert len({row["base_accuracy"] for row in rows}) > 1
    bases = opened.ledger.committed().bases
    curves = [bases[run.id].metrics["train_curve"] for run in opened.plan.bases.trainings]
    assert all(curve[-1][1] < curve[0][1] for curve in curves)
