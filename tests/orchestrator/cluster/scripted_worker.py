"""A worker that follows orders: it answers, fails or dies. It runs in Ray's processes."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from merge.errors import NonFiniteMergeError
from workers.artifacts.manifests import Manifest
from workers.prepare.progress import PreparationProgress
from workers.specs.expert import ExpertSpec
from workers.specs.training import TrialSpec
from workers.train.memory_share import MemoryShare


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Stands for the report of a real trial."""

    step: int
    loss: float | None
    committed: tuple[Manifest, ...]


class Worker:
    """Keeps its notes in the directory of the store's URL."""

    def __init__(self, store_url: str, *, num_cpus: float) -> None:
        self._notes = Path(store_url)
        self._num_cpus = num_cpus

    def answer(self, name: str) -> Manifest:
        """Succeeds."""
        return manifest_of("merge", name)

    def wait(self, name: str) -> Manifest:
        """Succeeds once a note of this name exists."""
        while not (self._notes / name).exists():
            time.sleep(0.02)
        return manifest_of("merge", name)

    def refuse(self, name: str) -> Manifest:
        """Fails with an error of the project."""
        raise NonFiniteMergeError(f"tensor {name} is not finite")

    def die(self, name: str) -> Manifest:
        """Kills the process."""
        self._note(name)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def die_once(self, name: str) -> Manifest:
        """Kills the process the first time and succeeds the second."""
        return manifest_of("merge", name) if self._is_noted(name) else self.die(name)

    def prepare(self, name: str) -> Iterator[PreparationProgress]:
        """Reports three times, the last time with a manifest."""
        for num_done in (1, 2):
            yield progress_of(name, num_done=num_done)
        yield progress_of(name, num_done=3, committed=manifest_of("data", name))

    def prepare_and_refuse(self, name: str) -> Iterator[PreparationProgress]:
        """Reports once and fails with an error of the project."""
        yield progress_of(name, num_done=1)
        self.refuse(name)

    def prepare_and_die_once(self, name: str) -> Iterator[PreparationProgress]:
        """Reports once and kills the process, the first time."""
        yield progress_of(name, num_done=1)
        if not self._is_noted(name):
            time.sleep(0.5)  # so that the report is on its way
            self.die(name)
        yield from self.prepare(name)

    def run_training(
        self,
        spec: TrialSpec,
        *,
        report_every_s: float,
        checkpoint_every_s: float,
        memory: MemoryShare,
    ) -> Iterator[Progress]:
        """Reports halfway and at each snapshot, unless the task's name asks for trouble."""
        assert report_every_s > 0
        assert checkpoint_every_s > 0
        task = spec.longest.task
        yield Progress(step=1, loss=None, committed=())
        assert memory.micro_batch is None
        if task == "failing":
            raise ValueError("no such image")
        if task == "dying" and not self._is_noted("died"):
            self._note("died")
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            while task == "endless" or (task == "waiting" and not self._is_noted("go")):
                time.sleep(0.05)
                yield Progress(step=1, loss=0.5, committed=())
        except GeneratorExit:
            self._note("closed")
            raise
        for expert in spec.outputs:
            yield Progress(
                step=expert.hyperparameters.steps, loss=0.5, committed=(expert_manifest(expert),)
            )

    def _note(self, name: str) -> None:
        (self._notes / name).touch()

    def _is_noted(self, name: str) -> bool:
        return (self._notes / name).exists()


def expert_manifest(spec: ExpertSpec) -> Manifest:
    """Makes the manifest of an expert."""
    return manifest_of("expert", spec.id)


def progress_of(
    task: str, *, num_done: int, committed: Manifest | None = None
) -> PreparationProgress:
    """Makes a report on three images."""
    return PreparationProgress(
        task=task, num_images=3, num_done=num_done, images_per_s=1.0, committed=committed
    )


def manifest_of(kind: str, artifact_id: str) -> Manifest:
    """Makes a manifest with the pid of this process and the time."""
    return Manifest(
        kind=kind,
        id=artifact_id,
        version=1,
        spec={},
        inputs={},
        files=(),
        attempt="attempt",
        outcome="done",
        metrics={"process": os.getpid(), "made_at_s": time.monotonic()},
        seconds={},
        created_at_s=0.0,
        code_version="test",
    )
