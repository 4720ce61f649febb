"""Keeps which training each slot has, and passes events on to a listener that knows no Tune."""

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial

from orchestrator.cluster.connection import is_node_lost
from orchestrator.cluster.protocol import TrialListener, TrialSettings
from workers.artifacts.manifests import Manifest
from workers.specs.training import Training
from workers.train.memory_share import MemoryShare


class NotPickled:
    """A part of Tune's setup whose state is not pickled.

    Tune pickles its parts into a file to restore from; a run never restores from it.
    """

    def __getstate__(self) -> dict[str, object]:
        return {}


class SlotTrainings:
    """The trainings that wait and run; a listener hears of their events.

    A trial of Tune stands for a slot: its worker runs one training after another.

    Tune would take an exception of the listener for a failure of the trial. The first one is
    therefore kept in `error`, and `must_stop` ends the trials.
    """

    def __init__(
        self,
        listener: TrialListener,
        *,
        trainings: Sequence[Training],
        settings: TrialSettings,
    ) -> None:
        self._listener = listener
        self._trainings = trainings
        self._settings = settings
        self._waiting = deque(range(len(trainings)))
        self._number_of: dict[Trial, int] = {}
        """The number of the training that each trial of Tune has; trials that ended have none."""
        self._running: dict[Trial, None] = {}
        """The trials of Tune whose worker holds a training, in the order in which these began."""
        self._further_slots: dict[Trial, int] = {}
        """The slots beyond the first of trials of Tune with a larger part of a GPU."""
        self.error: Exception | None = None

    @contextlib.contextmanager
    def _keeping_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 `run_trials` raises it once Tune has stopped
            self.error = self.error or error

    @property
    def has_waiting(self) -> bool:
        """Returns whether any training waits for a slot."""
        return bool(self._waiting)

    @property
    def num_slots_taken(self) -> int:
        """Returns the slots of trials of Tune that have a training, waiting for Ray or running."""
        return len(self._number_of) + sum(self._further_slots.values())

    def next_number(self) -> int | None:
        """Takes the next training that the listener lets start; None if there is none."""
        while self._waiting and self.error is None:
            number = self._waiting.popleft()
            with self._keeping_error():
                if self._listener.may_start(self._trainings[number].id):
                    return number
        return None

    def put_back(self, number: int) -> None:
        """Makes a training that was taken the next one to start."""
        self._waiting.appendleft(number)

    def memory(self, number: int) -> MemoryShare:
        """Returns the memory of a training that starts now."""
        return self._settings.memory(self._trainings[number].id)

    def give(self, trial: Trial, number: int, *, memory: MemoryShare) -> None:
        """Records that a trial of Tune has a training."""
        self._number_of[trial] = number
        if (num_further := self._settings.num_slots_of(memory) - 1) > 0:
            self._further_slots[trial] = num_further

    def begin(self, trial: Trial) -> None:
        """Passes on that a worker has begun the training that its trial of Tune has."""
        self._running[trial] = None
        with self._keeping_error():
            self._listener.trial_started(self._id(trial))

    def report(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Passes on a worker's report on its training."""
        with self._keeping_error():
            training_id = self._id(trial)
            committed = [Manifest.from_json(each, key=training_id) for each in result["committed"]]
            self._listener.trial_progressed(
                training_id, step=result["step"], loss=result["loss"], committed=committed
            )

    def finish(self, trial: Trial) -> None:
        """Passes on that a training has ended, and takes it from its trial of Tune."""
        with self._keeping_error():
            self._listener.trial_finished(self._id(trial))
        self._take(trial)

    def pause(self, trial: Trial) -> None:
        """Takes a training from its trial of Tune, and makes it the next one to go on."""
        with self._keeping_error():
            self._listener.trial_paused(self._id(trial))
        self.put_back(self._take(trial))

    def is_surplus(self, trial: Trial, *, num_slots: int) -> bool:
        """Returns whether the trainings that began before a trial's fill every slot."""
        return trial not in itertools.islice(self._running, num_slots)

    def must_stop(self) -> bool:
        """Returns whether all trials must stop: the listener says so, or has raised."""
        return self.error is not None or not self._listener.may_go_on()

    def fail(self, trial: Trial) -> None:
        """Passes on why a training failed, and takes it from its trial of Tune, which ends."""
        error, trace = _error_of(trial)
        cause = error.cause if isinstance(error, RayTaskError) else error
        last_line = trace.strip().rpartition("\n")[2]
        training_id = self._id(trial)
        self._take(trial)
        with self._keeping_error():
            self._listener.trial_failed(
                training_id,
                error=cause,
                reason=f"{type(cause).__name__}: {cause}" if cause else last_line,
                trace=trace,
                is_lost=is_node_lost(error),
            )

    def _id(self, trial: Trial) -> str:
        return self._trainings[self._number_of[trial]].id

    def _take(self, trial: Trial) -> int:
        self._running.pop(trial, None)
        self._further_slots.pop(trial, None)
        return self._number_of.pop(trial)


def _error_of(trial: Trial) -> tuple[BaseException | None, str]:
    """Reads the exception that ended a trial, and the worker's traceback, from Tune's files.

    Tune's own functions look in the storage path, which does not have the files yet at that time.
    """
    text, pickled = Path(trial.error_file), trial.pickled_error_file
    trace = text.read_text(encoding="utf-8")
    try:
        return (ray.cloudpickle.loads(Path(pickled).read_bytes()) if pickled else None), trace
    except Exception:  # noqa: BLE001 unpickling an exception may raise anything
        return None, trace
