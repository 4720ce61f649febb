"""Failures of trials and jobs: counted for retries, kept in the store for whoever looks."""

import json
import threading
from dataclasses import dataclass

from orchestrator.record.folder import StudyFolder


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One try that failed."""

    artifact_id: str
    reason: str
    """The exception's type and message."""
    trace: str
    """The worker's traceback."""


class Failures:
    """Counts the tries of this run that failed and writes each down in the study's folder."""

    def __init__(self, folder: StudyFolder, *, retries: int) -> None:
        self._folder = folder
        self._retries = retries
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def note(self, failure: Failure, *, is_final: bool = False) -> str | None:
        """Writes a failure down; returns why there is no further try, None when there is one.

        Args:
            failure: What happened.
            is_final: The same would happen again, for example a merge that is not finite.
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
            f"{failure.reason} (tried {number}x; trace: {self._folder.location(name)}; by hand: "
            f"python -m workers.run {failure.artifact_id} --store {self._folder.store_url})"
        )
