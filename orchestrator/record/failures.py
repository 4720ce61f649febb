"""Counts the failed tries of trainings and jobs, and writes each traceback to the store."""

import json
import re
import shlex
import threading
from dataclasses import dataclass

from orchestrator.record.folder import StudyFolder

_ADDRESS = re.compile("0x[0-9a-fA-F]+")
"""The address of an object in a message, which differs from try to try."""


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
        self._reasons: dict[str, list[str]] = {}
        """The reasons of all failed tries, by artifact."""

    def note(self, failure: Failure, *, is_final: bool = False) -> str | None:
        """Records a failed try.

        An error that repeats an earlier one of the same job, type and message, is final: a third
        try would meet it too. The death of a worker process names the process, so it never counts
        as the same.

        Args:
            failure: The failed try.
            is_final: Whether another try would fail in the same way; a merge that is not finite
                would.

        Returns:
            None if the job is to be tried again. Otherwise the reason with the number of tries, the
            place of the traceback and a command that runs the job in a shell.
        """
        reason = _ADDRESS.sub("0x", failure.reason)
        with self._lock:
            reasons = self._reasons.setdefault(failure.artifact_id, [])
            is_repeated = reason in reasons
            reasons.append(reason)
            number = len(reasons)
        name = f"failure-{failure.artifact_id}-{number}.json"
        record = {"id": failure.artifact_id, "reason": failure.reason, "trace": failure.trace}
        self._folder.write_bytes(name, json.dumps(record, indent=1).encode())
        if not is_final and not is_repeated and number <= self._retries:
            return None
        why = ", the same error again" if is_repeated else ", as it would fail again" * is_final
        return (
            f"{failure.reason} (tried {number}x{why}; traceback: {self._folder.location(name)}; "
            f"run by hand: python -m workers.run {failure.artifact_id} --store "
            f"{shlex.quote(self._folder.store_url)})"
        )
