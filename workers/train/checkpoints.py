"""Writes, finds and restores the checkpoints of an unfinished training.

A checkpoint is one object below `in-flight/<training id>/`. Its key contains the step and the
sha256 of the content; the content names the training and the step. A reader takes the highest step
whose content passes these checks, so a torn, damaged or foreign object costs time but never changes
a result. Two workers on one training may both write, because each of their checkpoints is valid.
Without any checkpoint, a training repeats all its steps.
"""

import json
import logging
import math
from collections.abc import Mapping

from eval.digests import sha256_of_file
from workers.artifacts.layout import CheckpointKey, Layout
from workers.models.tensor_files import METADATA_KEY, TensorFile, write_tensors
from workers.store.protocol import NotFoundError, Store, StoreError
from workers.store.scratch import scratch_directory
from workers.train.trainer import Trainer

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training in a store."""

    def __init__(self, store: Store, *, training_id: str) -> None:
        self._store = store
        self._training_id = training_id
        self._listed: dict[str, CheckpointKey] = {}
        self._superseded: set[str] = set()
        self._may_exist = False

    @property
    def last_step(self) -> int:
        """The highest step in the last listing, even if unreadable; 0 without checkpoints."""
        return max((parsed.step for parsed in self._listed.values()), default=0)

    def refresh(self) -> bool:
        """Lists the checkpoints in the store; one request.

        Returns:
            Whether there is a checkpoint that the previous listing did not have.

        Raises:
            StoreError: The store cannot be read. The error is not ignored: a training that starts
                from the beginning would waste the time that it has taken.
        """
        before = set(self._listed)
        keys = [entry.key for entry in self._store.list(Layout.in_flight(self._training_id))]
        parsed = {key: Layout.parse_checkpoint_key(key) for key in keys}
        self._listed = {key: parts for key, parts in parsed.items() if parts}
        self._may_exist = bool(keys)
        return not before.issuperset(self._listed)

    def restore(self, trainer: Trainer, *, max_step: int) -> float:
        """Restores the valid checkpoint with the highest step.

        Args:
            trainer: At step 0. It is unchanged if no checkpoint is valid.
            max_step: Checkpoints with a higher step are skipped and kept.

        Returns:
            Seconds that the training had taken at the checkpoint; 0 without a checkpoint.

        Raises:
            StoreError: The store fails. A checkpoint that has vanished is skipped.
            OSError: This machine's disk is full.
        """
        usable = [(each.step, key) for key, each in self._listed.items() if each.step <= max_step]
        self._superseded.update(key for _, key in usable)
        for _, key in sorted(usable, reverse=True):
            try:
                return self._restore(trainer, key)
            except (NotFoundError, FileNotFoundError):
                _log.info("checkpoint %s was replaced after it was listed", key)
            # Damaged files, invalid JSON and mismatched tensors raise subclasses of ValueError.
            except (LookupError, TypeError, ValueError) as error:
                _log.warning("checkpoint %s of %s is refused: %s", key, self._store.url, error)
        return 0.0

    def write(self, trainer: Trainer, *, seconds: float) -> bool:
        """Writes a checkpoint, then deletes the checkpoints that it replaces.

        An error of the store or of the scratch disk is logged and not raised: the training can
        continue without a checkpoint.

        Args:
            trainer: The training to save.
            seconds: Seconds that the training has taken.

        Returns:
            Whether the checkpoint is written and the older ones are deleted.
        """
        self._may_exist = True
        about = {"trial": self._training_id, "step": str(trainer.step), "seconds": repr(seconds)}
        if trainer.least_micro_batch is not None:
            about["micro_batch"] = str(trainer.least_micro_batch)
        superseded = self._superseded
        try:
            with scratch_directory("checkpoint") as scratch:
                path = scratch / "checkpoint.safetensors"
                write_tensors(path, trainer.state(), about=about)
                sha256 = sha256_of_file(path)
                key = Layout.checkpoint(self._training_id, step=trainer.step, sha256=sha256)
                # Before the upload, because an upload that raises may still have succeeded.
                self._superseded = superseded | {key}
                self._store.upload(key, path)
            self._store.delete(superseded - {key})
        except (StoreError, OSError) as error:
            _log.warning(
                "training %s continues; writing its checkpoint of step %d or deleting older ones "
                "failed: %s",
                self._training_id,
                trainer.step,
                error,
            )
            return False
        self._superseded = {key}
        return True

    def remove(self) -> None:
        """Deletes all checkpoints of the training; no request if none was ever seen or written.

        A store error is logged and not raised: `mergesweep gc` deletes the remaining checkpoints.
        """
        if not self._may_exist:
            return
        try:
            self._store.delete(
                [entry.key for entry in self._store.list(Layout.in_flight(self._training_id))]
            )
        except StoreError as error:
            _log.warning(
                "checkpoints of training %s could not be deleted; `mergesweep gc` deletes them: %s",
                self._training_id,
                error,
            )

    def _restore(self, trainer: Trainer, key: str) -> float:
        listed = self._listed[key]
        with scratch_directory("checkpoint") as scratch:
            path = self._store.local_path(key)
            if path is None:
                path = scratch / "checkpoint.safetensors"
                self._store.download(key, path)
            if (sha256 := sha256_of_file(path)) != listed.sha256:
                raise ValueError(f"its content has sha256 {sha256}")
            tensors = TensorFile(path)
            about = json.loads(tensors.metadata[METADATA_KEY])
            seconds = self._checked_seconds(about, step=listed.step)
            micro_batch = int(about["micro_batch"]) if "micro_batch" in about else None
            trainer.restore(tensors, step=listed.step)
            trainer.least_micro_batch = micro_batch
            return seconds

    def _checked_seconds(self, about: Mapping[str, str], *, step: int) -> float:
        """Returns the seconds in a checkpoint's metadata; raises if the metadata is not right."""
        if (about["trial"], about["step"]) != (self._training_id, str(step)):
            raise ValueError(f"it belongs to training {about['trial']}, step {about['step']}")
        seconds = float(about["seconds"])
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"it says that the training took {seconds} s")
        return seconds
