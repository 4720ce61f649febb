"""Runs trainings, which are trials and pretrainings, so that they can resume bit for bit."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic

from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.specs.training import Output, TrainingSpec
from workers.train.checkpoint_interval import CheckpointInterval
from workers.train.checkpoints import Checkpoints
from workers.train.trainer import DivergedError, Trainer, recent_loss

CHECKPOINT_EVERY_S = 30.0
"""Least time between two checkpoints if the study does not set one."""
NUM_LISTINGS = 3
"""Most listings in search of a checkpoint while another worker keeps replacing it."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The intervals at which a training reports and writes checkpoints."""

    report_every_s: float
    """Seconds between two reports."""
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    """Least seconds between two checkpoints; see `workers.train.checkpoint_interval`."""
    clock: Callable[[], float] = time.monotonic
    """Returns seconds from an arbitrary origin."""


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """A report of a training."""

    step: int
    """Steps taken. At a snapshot its step count, even if the training diverged before."""
    loss: float | None
    """Mean of the recent training losses, in nats per image; None before the first step."""
    committed: tuple[Manifest, ...] = ()
    """Artifacts committed since the last report."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a training when it commits an artifact."""

    seconds: float
    """Seconds that the training has taken. The time between an interrupted worker's last
    checkpoint and the next worker's start does not count."""
    diverged: bool
    """Whether a loss was not finite."""


@dataclass(kw_only=True)
class ResumableTraining(Generic[Output]):
    """A training in progress, which another worker can resume after an interruption."""

    spec: TrainingSpec[Output]
    trainer: Trainer
    """At step 0."""
    artifacts: Artifacts
    timing: Timing
    started_s: float
    """Start of the training by the clock. `run` moves it back by the time of earlier workers."""
    _checkpoints: Checkpoints = field(init=False)
    _diverged: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._checkpoints = Checkpoints(self.artifacts.store, training_id=self.spec.checkpoints_id)

    def run(self, commit: Callable[[Output, Snapshot], Manifest]) -> Iterator[TrainingProgress]:
        """Resumes from the last usable checkpoint, trains, and commits at each snapshot.

        Yields a report at an interval and at every snapshot; the last report ends the training.
        After a loss that is not finite no step is taken, and the remaining snapshots are committed
        at once. A training whose generator is closed writes a checkpoint, and so does one that may
        go on: a longer training takes its steps from there.

        Args:
            commit: Commits the model as it is now, as one of the training's outputs.

        Raises:
            StoreError: The store fails, except while a checkpoint is written or removed.
            ManifestError: A committed manifest is damaged.
        """
        committed = {manifest.id: manifest for manifest in self._resume()}
        interval = CheckpointInterval(
            min_interval_s=self.timing.checkpoint_every_s, clock=self.timing.clock
        )
        with self._checkpoint_when_closed():
            for output, steps in zip(self.spec.outputs, self.spec.snapshots, strict=True):
                for _ in self._advance(until=steps, interval=interval):
                    yield self._progress(self.trainer.step)
                is_last = steps == self.spec.num_steps
                if is_last and self.spec.goes_on_to is not None and not self._diverged:
                    self._write_checkpoint()  # first: whoever sees the artifact may go on from here
                manifest = committed.get(output.id) or commit(output, self._snapshot())
                if is_last and (self.spec.goes_on_to is None or self._diverged):
                    self._checkpoints.remove()
                yield self._progress(steps, manifest)
                self.trainer.set_training_mode()

    def _resume(self) -> list[Manifest]:
        """Restores the last usable checkpoint; returns the manifests of the snapshots before it.

        A checkpoint beyond a snapshot that is not committed is not usable. A worker that was
        thought dead may replace a checkpoint between its listing and its reading. As long as
        nothing was restored and the listing shows a new checkpoint, the search is repeated, up to
        `NUM_LISTINGS` times.
        """
        committed: list[Manifest] = []
        for _ in range(NUM_LISTINGS):
            if self.trainer.step > 0 or not self._checkpoints.refresh():
                break
            committed = self._committed_before(self._checkpoints.last_step)
            limit = self.spec.snapshots[len(committed)]
            self.started_s -= self._checkpoints.restore(self.trainer, max_step=limit)
        return committed

    def _committed_before(self, step: int) -> list[Manifest]:
        """Returns the manifests of snapshots before a step, up to the first missing one.

        The last snapshot is not among them.
        """
        found = []
        kind, outputs, snapshots = self.spec.output_kind, self.spec.outputs, self.spec.snapshots
        for output, steps in zip(outputs[:-1], snapshots[:-1], strict=True):
            manifest = self.artifacts.find(kind, output.id) if steps < step else None
            if manifest is None:
                break
            found.append(manifest)
        return found

    def _advance(self, *, until: int, interval: CheckpointInterval) -> Iterator[None]:
        """Takes steps up to a count or to divergence; yields when a report is due."""
        clock = self.timing.clock
        reported_s = clock()
        while self.trainer.step < until and not self._diverged:
            try:
                self.trainer.advance()
            except DivergedError:
                self._diverged = True
                break
            if interval.is_due(self.trainer):
                interval.measure(self._write_checkpoint)
            if clock() - reported_s > self.timing.report_every_s and self.trainer.step < until:
                yield
                reported_s = clock()

    @contextmanager
    def _checkpoint_when_closed(self) -> Iterator[None]:
        """Writes a checkpoint if the generator around the `with` block is closed."""
        try:
            yield
        except GeneratorExit:
            if 0 < self.trainer.step < self.spec.num_steps and not self._diverged:
                self._write_checkpoint()
            raise

    def _write_checkpoint(self) -> bool:
        return self._checkpoints.write(self.trainer, seconds=self._seconds())

    def _snapshot(self) -> Snapshot:
        return Snapshot(seconds=self._seconds(), diverged=self._diverged)

    def _progress(self, step: int, *committed: Manifest) -> TrainingProgress:
        loss = recent_loss(self.trainer.losses[:step])
        return TrainingProgress(step=step, loss=loss, committed=committed)

    def _seconds(self) -> float:
        return self.timing.clock() - self.started_s
