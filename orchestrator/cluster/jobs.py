"""What the driver asks of job workers, and how that ends; free of Ray."""

from dataclasses import dataclass
from typing import Any

from workers.artifacts.manifests import Manifest


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of a worker's method."""

    id: str
    method: str
    """Name of a method of `workers.process.Worker`."""
    argument: Any
    reports: bool = False
    """Whether the method yields `PreparationProgress`, the last of it with the manifest, in place
    of returning a manifest."""


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How a job ended: with a manifest or with an error."""

    job: Job
    manifest: Manifest | None = None
    error: BaseException | None = None
    """What the worker raised, or how it died."""
    trace: str = ""
    """The worker's traceback."""
