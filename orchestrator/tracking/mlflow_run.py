"""What is published: one tracked run, its text form on the pipe, and what MLflow accepts of it."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

Status = Literal["FINISHED", "FAILED", "RUNNING"]

MAX_METRIC_KEYS = 30
"""Metric names a run; a page of 100 runs with hundreds of names each weighs hundreds of MB."""
MAX_ARTIFACT_BYTES = 8 * 2**20
"""All artifacts of a run together: figures and tables, never checkpoints."""

MAX_PARAM_CHARS = 6000
"""MLflow cuts what is longer without a word, and then refuses the whole as a changed value."""

_NAME = re.compile(r"[\w\-. /:]{1,250}")


@dataclass(frozen=True, kw_only=True)
class MetricPoint:
    """One value of a metric's history."""

    name: str
    value: float
    """NaN is kept; an infinite value is published as NaN and listed in a tag of the run."""
    step: int
    timestamp_ms: int
    """When it was measured, from the manifest: a replay with equal timestamps adds nothing."""


@dataclass(frozen=True, kw_only=True)
class MlflowRun:
    """One MLflow run, whole: publishing it again replaces what was said before.

    Raises:
        ValueError: A name, a size or a count that MLflow refuses or a page of runs cannot show.
    """

    key: str
    """Unique in the study and stable: `expert/<id>`, `merge/<id>/lr=0.1`, `setting/lr=0.1/ties`."""
    kind: str
    name: str
    """As shown in the table of runs."""
    start_ms: int
    end_ms: int
    """Ignored while the status is RUNNING."""
    status: Status
    parent_key: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    """Immutable in MLflow: only what the specification says, never what happened at run time."""
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[MetricPoint] = ()
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    """Relative path to content, e.g. `figures/lr.png`."""

    def __post_init__(self) -> None:
        problems = [*self._bad_names(), *self._bad_artifacts()]
        if "'" in f"{self.key}{self.parent_key}":  # MLflow's search has no way to escape it
            problems.append("a quotation mark in its key or its parent's")
        if self.parent_key == self.key:
            problems.append("it is its own parent")
        if len({point.name for point in self.metrics}) > MAX_METRIC_KEYS:
            problems.append(f"more than {MAX_METRIC_KEYS} metric names")
        long = [k for k, v in self.params.items() if len(v) > MAX_PARAM_CHARS]
        problems += [
            f"the param {name!r} of more than {MAX_PARAM_CHARS} characters" for name in long
        ]
        if problems:
            raise ValueError(f"run {self.key!r} cannot be tracked: {'; '.join(problems)}")

    def _bad_names(self) -> list[str]:
        names = [*self.params, *self.tags, *{point.name for point in self.metrics}]
        return [
            f"the name {name!r} (letters, digits, _ - . space / : only)"
            for name in names
            if not _NAME.fullmatch(name)
        ]

    def _bad_artifacts(self) -> list[str]:
        paths = [PurePosixPath(path) for path in self.artifacts]
        bad = [f"the path {path}" for path in paths if path.is_absolute() or ".." in path.parts]
        if sum(map(len, self.artifacts.values())) > MAX_ARTIFACT_BYTES:
            bad.append(f"artifacts of more than {MAX_ARTIFACT_BYTES} bytes")
        return bad

    @property
    def digest(self) -> str:
        """Identifies the content: equal digests need no publishing."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Returns one line of JSON; NaN and infinities in Python's spelling."""
        payload = {
            **vars(self),
            "params": dict(self.params),
            "tags": dict(self.tags),
            "metrics": [[m.name, m.value, m.step, m.timestamp_ms] for m in self.metrics],
            "artifacts": {k: base64.b64encode(v).decode() for k, v in self.artifacts.items()},
        }
        return json.dumps(payload, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "MlflowRun":
        """Reads what `to_json` wrote."""
        payload: dict[str, Any] = json.loads(text)
        payload["metrics"] = [
            MetricPoint(name=name, value=value, step=step, timestamp_ms=timestamp_ms)
            for name, value, step, timestamp_ms in payload["metrics"]
        ]
        payload["artifacts"] = {k: base64.b64decode(v) for k, v in payload["artifacts"].items()}
        return cls(**payload)
