"""Measures the cost of checkpoints: two equal trials, with and without them, that take turns.

Both are real trials of the default backbone on one thread and one store. A turn lasts ten seconds,
and a trial's clock stands still during the other's turn, so that other load on the machine slows
both alike. Both must end with the same bits.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from eval.suites import find_task
from eval.task_source import TaskSource
from workers.prepare.bases import prepare_base
from workers.prepare.images import prepare_data
from workers.specs.bases import BaseJob, BaseSpec
from workers.specs.data import DataJob, DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.specs.training import TrialSpec
from workers.train.checkpoints import Checkpoints
from workers.train.resumable import Timing, TrainingProgress
from workers.train.trainer import Trainer
from workers.train.trial import run_trial
from workers.workspace import Workspace

TASK = "mnist_m"
TURN_S = 10.0
CHECKPOINT_EVERY_S = 10.0
NEVER_S = float("inf")
NUM_STEPS = 300
"""About two minutes for each of the two trials."""


@dataclass(frozen=True, kw_only=True)
class CheckpointOverhead:
    """The measured cost of checkpoints."""

    without_s: float
    """Seconds per step of the trial without checkpoints, from its second turn on."""
    with_s: float
    """Seconds per step of the trial with checkpoints, from its second turn on."""
    trial_s: float
    """Total seconds of the trial with checkpoints."""
    writes_s: tuple[float, ...]
    """Seconds of each checkpoint's write."""
    num_bytes: int
    """Bytes of a checkpoint's tensors."""

    @property
    def added_frac(self) -> float:
        """The fraction by which checkpoints made the trial longer, including noise."""
        return self.with_s / self.without_s - 1

    @property
    def written_frac(self) -> float:
        """The fraction of the trial's time spent writing checkpoints."""
        return sum(self.writes_s) / self.trial_s


class Stopwatch:
    """A clock that runs only inside its `with` blocks."""

    def __init__(self) -> None:
        self._total_s = 0.0
        self._since_s: float | None = None

    def __call__(self) -> float:
        """Returns the seconds spent inside all blocks so far."""
        running_s = 0.0 if self._since_s is None else time.monotonic() - self._since_s
        return self._total_s + running_s

    def __enter__(self) -> None:
        self._since_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._total_s, self._since_s = self(), None


def measure(num_steps: int, *, store_url: str | None = None) -> CheckpointOverhead:
    """Runs both trials.

    Args:
        num_steps: Steps of each trial.
        store_url: An empty store; None for a temporary directory.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        url = store_url or f"{folder}/store"
        watches = (Stopwatch(), Stopwatch())
        runs = tuple(
            _trial(
                Workspace(_below(url, name), cache_root=Path(folder), device=torch.device("cpu")),
                num_steps=num_steps,
                checkpoint_every_s=every_s,
                clock=watch,
            )
            for name, every_s, watch in zip(
                ("without", "with"), (NEVER_S, CHECKPOINT_EVERY_S), watches, strict=True
            )
        )
        sizes, writes_s = _watch_writes()
        (without, without_s), (with_, with_s) = _take_turns(runs, watches=watches)
    assert without == with_
    return CheckpointOverhead(
        without_s=without_s,
        with_s=with_s,
        trial_s=watches[1](),
        writes_s=tuple(writes_s),
        num_bytes=max(sizes),
    )


def _below(url: str, name: str) -> str:
    path, mark, query = url.partition("?")
    return f"{path}/{name}{mark}{query}"


def _trial(
    workspace: Workspace,
    *,
    num_steps: int,
    checkpoint_every_s: float,
    clock: Callable[[], float],
) -> Iterator[TrainingProgress]:
    base = BaseSpec(model="tf_efficientnet_lite0", weights="none", seed=0)
    data = DataSpec(
        task=TASK,
        fingerprint=find_task(TASK).fingerprint,
        image_size=64,
        max_train=1000,
        max_test=200,
        evaluate_on="test",
    )
    prepare_base(BaseJob(spec=base, path=None), workspace=workspace)
    source = TaskSource(task=find_task(TASK))
    list(prepare_data(DataJob(spec=data, source=source), workspace=workspace))
    longest = ExpertSpec(
        task=TASK,
        base_id=base.id,
        data_id=data.id,
        hyperparameters=Hyperparameters(
            steps=num_steps,
            batch_size=32,
            lr=0.001,
            data_ratio=1.0,
            optimizer="sgd",
            seed=0,
        ),
        constants=TrainingConstants(momentum=0.9, freeze_batch_norm=True),
    )
    return run_trial(
        TrialSpec(longest=longest, snapshots=(num_steps,)),
        workspace=workspace,
        timing=Timing(report_every_s=TURN_S, checkpoint_every_s=checkpoint_every_s, clock=clock),
    )


def _watch_writes() -> tuple[list[int], list[float]]:
    """Returns two lists that receive the bytes and the seconds of every checkpoint."""
    sizes: list[int] = []
    writes_s: list[float] = []
    write = Checkpoints.write

    def timed(checkpoints: Checkpoints, trainer: Trainer, *, seconds: float) -> bool:
        began_s = time.monotonic()
        written = write(checkpoints, trainer, seconds=seconds)
        writes_s.append(time.monotonic() - began_s)
        sizes.append(sum(tensor.nbytes for tensor in trainer.state().values()))
        assert written
        return written

    Checkpoints.write = timed  # type: ignore[method-assign]
    return sizes, writes_s


def _take_turns(
    runs: tuple[Iterator[TrainingProgress], ...], *, watches: tuple[Stopwatch, ...]
) -> list[tuple[list[str], float]]:
    """Runs all trials to their ends; returns the file digests and seconds per step of each.

    The first turn does not count, because the first trial's includes the process's warm-up.
    """
    first: dict[int, tuple[int, float]] = {}
    ended: dict[int, tuple[list[str], float]] = {}
    while len(ended) < len(runs):
        for number in range(len(runs)):
            if number in ended:
                continue
            with watches[number]:
                progress = next(runs[number])
            seconds = watches[number]()
            began_step, began_s = first.setdefault(number, (progress.step, seconds))
            if progress.committed:
                digests = [file.sha256 for each in progress.committed for file in each.files]
                ended[number] = (digests, (seconds - began_s) / (progress.step - began_step))
    return [ended[number] for number in range(len(runs))]


def rows(measured: CheckpointOverhead) -> list[tuple[str, str, str]]:
    """Returns the table's rows: what, measured, bound."""
    count, seconds = len(measured.writes_s), sum(measured.writes_s)
    what = f"{count} checkpoints of {measured.num_bytes / 1e6:.0f} MB"
    return [
        (
            f"{what} in a trial of {measured.trial_s:.0f} s, against none",
            f"{measured.added_frac:+.1%}",
            "3 %",
        ),
        ("the same, seconds of writing / total seconds", f"{measured.written_frac:.1%}", "3 %"),
        ("one of these checkpoints", f"{seconds / count:.2f} s", ""),
    ]


def main() -> None:
    """Prints the table's rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=NUM_STEPS, help="steps of each of the two trials"
    )
    parser.add_argument("--store", help="URL of an empty store; default: a temporary directory")
    options = parser.parse_args()
    for line in rows(measure(options.steps, store_url=options.store)):
        print("| " + " | ".join(line) + " |")  # noqa: T201 its output


if __name__ == "__main__":
    main()
