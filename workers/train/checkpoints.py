"""Checkpoints of running trials: what a trial that is started again goes on from, bit for bit.

A checkpoint is one object below `in-flight/<trial id>/`, and its key says its step and the sha256
of its content. A reader takes the highest step whose content is what the key says, so that a torn,
damaged or foreign object costs time and never a result. Two workers on one trial may both write:
each of their checkpoints is right. Losing all of them costs the time since the last snapshot.
"""

import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from workers.artifacts.layout import Layout
from workers.models.tensor_files import METADATA_KEY, TensorFile, write_tensors
from workers.store.protocol import NotFoundError, Store, StoreError
from workers.train.fine_tune import FineTuning

MAX_SHARE = 0.02
"""What the next checkpoint may take of the time since the last one."""
GUESSED_BYTES_PER_S = 100e6
"""How fast the first checkpoint of a trial is taken to be written."""

_log = logging.getLogger(__name__)


class Pace:
    """Says when a trial's next checkpoint is worth its time, from what the last one took."""

    def __init__(self, *, min_interval_s: float, clock: Callable[[], float]) -> None:
        """Begins with the trial.

        Args:
            min_interval_s: Least time from one checkpoint to the next.
            clock: Seconds, from any origin.
        """
        self._min_interval_s = min_interval_s
        self._clock = clock
        self._since_s = clock()
        self._cost_s: float | None = None

    def is_due(self, tuning: FineTuning) -> bool:
        """Returns whether the interval is over and one costs under `MAX_SHARE` of the time since.

        Before the first one its cost is a guess from the run's bytes.
        """
        elapsed_s = self._clock() - self._since_s
        if elapsed_s < self._min_interval_s:
            return False
        if self._cost_s is None:
            num_bytes = sum(tensor.nbytes for tensor in tuning.state().values())
            self._cost_s = num_bytes / GUESSED_BYTES_PER_S
        return self._cost_s <= MAX_SHARE * elapsed_s

    def spend(self, write: Callable[[], bool]) -> None:
        """Runs a write that returns whether it succeeded, and begins the next interval.

        A success that took less than the one before lowers the cost to half at most. A failure
        says nothing of the cost: a minute of retries would put the next one off for an hour.
        """
        began_s = self._clock()
        succeeded = write()
        self._since_s = self._clock()
        if succeeded:
            self._cost_s = max(self._since_s - began_s, 0.5 * (self._cost_s or 0))


@dataclass(frozen=True, kw_only=True)
class _Listed:
    key: str
    step: int
    sha256: str


class Checkpoints:
    """The checkpoints of one trial in a store."""

    def __init__(self, store: Store, *, trial_id: str) -> None:
        """Asks nothing of the store yet."""
        self._store = store
        self._trial_id = trial_id
        self._listed: tuple[_Listed, ...] = ()
        self._superseded: set[str] = set()
        self._may_exist = False

    @property
    def last_step(self) -> int:
        """The highest step that the last `look` saw, whether it can be read or not; 0 for none."""
        return max((each.step for each in self._listed), default=0)

    def look(self) -> bool:
        """Lists the checkpoints, one request; returns whether there is one unseen before.

        Raises:
            StoreError: The store cannot be read; a trial that began anew would lose its time.
        """
        before = set(self._listed)
        keys = [entry.key for entry in self._store.list(Layout.in_flight(self._trial_id))]
        parsed = [(key, Layout.parse_checkpoint_key(key)) for key in keys]
        self._listed = tuple(
            _Listed(key=key, step=parts.step, sha256=parts.sha256) for key, parts in parsed if parts
        )
        self._may_exist = bool(keys)
        return not before.issuperset(self._listed)

    def restore(self, tuning: FineTuning, *, max_step: int) -> float:
        """Brings a run to the highest step, up to a given one, that can be read and is right.

        Args:
            tuning: At its beginning; stays there if no checkpoint is right.
            max_step: Checkpoints beyond it are passed over and kept.

        Returns:
            The seconds that the trial had taken until the checkpoint; 0 without one.

        Raises:
            StoreError: The store fails. A checkpoint that has vanished is passed over.
            OSError: This machine has no room for the file.
        """
        usable = [each for each in self._listed if each.step <= max_step]
        self._superseded.update(each.key for each in usable)
        for each in sorted(usable, key=lambda listed: (listed.step, listed.key), reverse=True):
            try:
                return self._restore(tuning, each)
            except (NotFoundError, FileNotFoundError):
                _log.info("checkpoint %s has just been replaced", each.key)
            # A JSON error and an unfit state are ValueErrors.
            except (SafetensorError, LookupError, TypeError, ValueError) as error:
                _log.warning("checkpoint %s of %s is refused: %s", each.key, self._store.url, error)
        return 0.0

    def write(self, tuning: FineTuning, *, seconds: float) -> bool:
        """Writes a checkpoint, then deletes those that it replaces; returns whether both went well.

        A store or a scratch disk that fails is logged and no error: the trial can do without.
        """
        self._may_exist = True
        about = {"trial": self._trial_id, "step": str(tuning.step), "seconds": repr(seconds)}
        superseded = self._superseded
        try:
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "checkpoint.safetensors"
                write_tensors(path, tuning.state(), about=about)
                key = Layout.checkpoint(self._trial_id, step=tuning.step, sha256=_sha256(path))
                self._superseded = superseded | {key}  # an upload that raises may have happened
                self._store.upload(key, path)
            self._store.delete(superseded - {key})
        except (StoreError, OSError, SafetensorError) as error:
            _log.warning("trial %s goes on without a checkpoint: %s", self._trial_id, error)
            return False
        self._superseded = {key}
        return True

    def remove(self) -> None:
        """Deletes all of the trial's checkpoints; asks nothing if none was ever seen or written.

        What a failing store keeps is logged; the study's garbage collection takes it.
        """
        if not self._may_exist:
            return
        try:
            self._store.delete(
                [entry.key for entry in self._store.list(Layout.in_flight(self._trial_id))]
            )
        except StoreError as error:
            _log.warning("the checkpoints of trial %s are left: %s", self._trial_id, error)

    def _restore(self, tuning: FineTuning, listed: _Listed) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            path = self._store.local_path(listed.key)
            if path is None:
                path = Path(scratch) / "checkpoint.safetensors"
                self._store.download(listed.key, path)
            if (sha256 := _sha256(path)) != listed.sha256:
                raise ValueError(f"its content has sha256 {sha256}")
            seconds = self._checked_seconds(path, step=listed.step)
            tuning.restore(TensorFile(path), step=listed.step)
            return seconds

    def _checked_seconds(self, path: Path, *, step: int) -> float:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[METADATA_KEY])
        if (about["trial"], about["step"]) != (self._trial_id, str(step)):
            raise ValueError(f"it is of trial {about['trial']}, step {about['step']}")
        seconds = float(about["seconds"])
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"the trial had taken {seconds} s")
        return seconds


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
