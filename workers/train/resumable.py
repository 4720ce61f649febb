"""A run of steps that snapshots, leaves checkpoints, and goes on from them bit for bit."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import TrainingMetrics
from workers.train.checkpoints import Checkpoints, Pace
from workers.train.fine_tune import DivergedError, FineTuning, loss_curve, recent_loss

CHECKPOINT_EVERY_S = 30.0
"""Least time between two checkpoints of a run where no study says another."""
NUM_LISTINGS = 3
"""How often a run looks for a checkpoint that a rival keeps replacing."""


@dataclass(kw_only=True)
class ResumableRun:
    """A fine-tuning or a pretraining in progress."""

    tuning: FineTuning
    checkpoints: Checkpoints
    clock: Callable[[], float]
    """Seconds, from any origin."""
    started_s: float
    """When the run would have begun if it had never been interrupted, by the clock."""
    diverged: bool = False
    """Whether a loss was not finite, after which no step is taken."""

    def seconds(self) -> float:
        """Returns how long the run has taken, interruptions left out."""
        return self.clock() - self.started_s

    @contextmanager
    def kept_when_closed(self) -> Iterator[None]:
        """Leaves a checkpoint of where the run stands if the generator around it is closed."""
        try:
            yield
        except GeneratorExit:
            if 0 < self.tuning.step < self.tuning.spec.steps and not self.diverged:
                self.checkpoints.write(self.tuning, seconds=self.seconds())
            raise

    def resume(
        self, snapshots: Sequence[int], *, find: Callable[[int], Manifest | None]
    ) -> list[Manifest]:
        """Goes to the last usable checkpoint; returns what the first snapshots have committed.

        A checkpoint beyond a snapshot that is not committed is of no use to this run. A rival (a
        worker that was thought dead) may replace a checkpoint between its listing and its reading:
        as long as a listing gives nothing but shows something new, there is another, up to three.

        Args:
            snapshots: Step counts, ascending.
            find: Returns the manifest of the snapshot at a position, None if there is none.
        """
        committed: list[Manifest] = []
        for _ in range(NUM_LISTINGS):
            if self.tuning.step > 0 or not self.checkpoints.look():
                break
            committed = self._committed_before(self.checkpoints.last_step, snapshots, find=find)
            limit = snapshots[len(committed)]
            self.started_s -= self.checkpoints.restore(self.tuning, max_step=limit)
        return committed

    @staticmethod
    def _committed_before(
        step: int, snapshots: Sequence[int], *, find: Callable[[int], Manifest | None]
    ) -> list[Manifest]:
        """Returns what is committed up to a step, without the last and without gaps."""
        found = []
        for position, snapshot in enumerate(snapshots[:-1]):
            manifest = find(position) if snapshot < step else None
            if manifest is None:
                break
            found.append(manifest)
        return found

    def advance(self, *, until: int, report_every_s: float, pace: Pace) -> Iterator[None]:
        """Takes steps up to a count unless the run diverges; nothing if it is there or beyond.

        Yields at an interval, for reports.
        """
        reported_s = self.clock()
        while self.tuning.step < until and not self.diverged:
            try:
                self.tuning.advance()
            except DivergedError:
                self.diverged = True
                break
            if pace.is_due(self.tuning):
                pace.spend(lambda: self.checkpoints.write(self.tuning, seconds=self.seconds()))
            if self.clock() - reported_s > report_every_s and self.tuning.step < until:
                yield
                reported_s = self.clock()


def training_metrics(tuning: FineTuning) -> TrainingMetrics:
    """Returns the losses and the step count of a training at its current step."""
    return TrainingMetrics(
        train_loss=recent_loss(tuning.losses),
        train_curve=tuple(loss_curve(tuning.losses)),
        num_classes=tuning.head.out_features,
        steps_taken=tuning.step,
    )
