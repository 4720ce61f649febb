"""Counts the failed tries of trainings and jobs, and writes each traceback to the store."""

import json
import shlex
import threading
from dataclasses import dataclass

from orchestrator.record.folder import StudyFolder


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One try that failed."""

    artifact_id: str
    """The id of the training, merge job or preparation job."""
    reason: str
    """The exception's type and message."""
    trace: str
    """The worker's traceback."""


class Failures:
    """The failed tries of one run, each with a file in the study's folder. Thread-safe."""

    def __init__(self, folder: StudyFolder, *, retries: int) -> None:
        self._folder = folder
        self._retries = retries
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def note(self, failure: Failure, *, is_final: bool = False) -> str | None:
        """Records a failed try.

        Args:
            failure: The failed try.
            is_final: Whether another try would fail in the same way; a merge that is not finite
                would.

        Returns:
            None if the job is to be tried again. Otherwise the reason with the number of tries, the
            place of the traceback and a command that runs the job in a shell.
        """
        with self._lock:
            number = self._counts.get(failure.artifact_id, 0) + 1
            self._counts[failure.artifact_id] = number
        name = f"failure-{failure.artifact_id}-{number}.json"
        record = {"id": failure.artifact_id, "reason": failure.reason, "trace": failure.trace}
        self._folder.write_bytes(name, json.dumps(record, indent=1).encode())
        if not is_final and number <= self._retries:
            return None
        return (
            f"{failure.reason} (tried {number}x; traceback: {self._folder.location(name)}; run by "
            f"hand: python -m workers.run {failure.artifact_id} --store "
            f"{shlex.quote(self._folder.store_url)})"
        )
