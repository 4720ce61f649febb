"""The jobs that the driver gives to job workers, and how they end. Imports nothing of Ray."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from workers.artifacts.manifests import Manifest


class JobKind(StrEnum):
    """The kind of a job; its value names the method of `workers.process.Worker` that runs it."""

    BASE = "prepare_base"
    HEAD = "prepare_head"
    IMAGES = "prepare_data"
    MERGE = "run_merge"
    CHOSEN_MERGE = "run_chosen_merge"
    CONSTANTS = "measure_constants"
    REACH = "measure_reach"
    OPERATOR = "measure_operator"

    @property
    def is_merge(self) -> bool:
        """Returns whether the job makes a merge of the plan."""
        return self in (JobKind.MERGE, JobKind.CHOSEN_MERGE)

    @property
    def is_measurement(self) -> bool:
        """Returns whether the job measures something that no plan names."""
        return self in (JobKind.CONSTANTS, JobKind.REACH, JobKind.OPERATOR)

    @property
    def reports_progress(self) -> bool:
        """Returns whether the method yields `PreparationProgress` instead of returning a manifest.

        The last report then carries the manifest.
        """
        return self is JobKind.IMAGES


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of a worker's method."""

    id: str
    """The id of the artifact that the job makes."""
    kind: JobKind
    argument: Any
    """The method's only argument."""


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """The end of a job: a manifest or an error."""

    job: Job
    manifest: Manifest | None = None
    error: BaseException | None = None
    """The worker's exception, or Ray's if the worker process died."""
    trace: str = ""
    """The worker's traceback."""


class JobQueue(Protocol):
    """The part of a job pool that takes jobs."""

    def submit(self, job: Job) -> None:
        """Queues a job; jobs start in the order of submission."""

    def cancel_waiting(self) -> None:
        """Removes every job that no worker has yet."""
