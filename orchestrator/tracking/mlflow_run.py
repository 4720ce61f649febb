"""The content of one MLflow run, its text form, and the limits that MLflow sets."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from eval.digests import sha256_of_bytes

Status = Literal["FINISHED", "FAILED", "RUNNING"]

MAX_METRIC_KEYS = 30
"""Metric names in an MLflow run; a page of 100 with hundreds of names each has hundreds of MB."""
MAX_ARTIFACT_BYTES = 8 * 2**20
"""Size of all artifacts of an MLflow run together: figures and report, never checkpoints."""

MAX_PARAM_CHARS = 6000
"""MLflow silently cuts longer values, and later refuses the full value as a changed one."""
MAX_TAG_CHARS = 5000
"""Servers refuse longer values."""
MAX_NAME_CHARS = 250
"""Databases refuse longer names of MLflow runs."""

_NAME = re.compile(r"[\w\-. /:]{1,250}")


@dataclass(frozen=True, kw_only=True)
class MetricPoint:
    """One value of a metric's history."""

    name: str
    value: float
    """May be NaN; an infinite value is published as NaN and listed in a tag."""
    step: int
    timestamp_ms: int
    """Time of the measurement, from the manifest: publishing it again adds no second point."""


@dataclass(frozen=True, kw_only=True)
class MlflowRun:
    """The whole content of one MLflow run; publishing it again replaces the earlier content.

    Raises:
        ValueError: A name, size or count is refused by MLflow or too large for its pages.
    """

    key: str
    """Unique and stable name in the study: `expert/<id>`, `merge/<id>`, `setting/lr=0.1/ties`."""
    kind: str
    name: str
    """Name in MLflow's table."""
    start_ms: int
    end_ms: int
    """Ignored while the status is RUNNING."""
    status: Status
    parent_key: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    """Values of the specification only, never measurements: MLflow does not let them change."""
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[MetricPoint] = ()
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    """Content by relative path, for example `figures/accuracy_vs_lr.svg`."""

    def __post_init__(self) -> None:
        problems = [*self._bad_names(), *self._bad_artifacts()]
        if "'" in f"{self.key}{self.parent_key}":  # MLflow's search cannot escape it
            problems.append("its key or its parent's key has a quotation mark")
        if self.parent_key == self.key:
            problems.append("it is its own parent")
        if len({point.name for point in self.metrics}) > MAX_METRIC_KEYS:
            problems.append(f"it has more than {MAX_METRIC_KEYS} metric names")
        if problems:
            raise ValueError(f"MLflow run {self.key!r} cannot be written: {'; '.join(problems)}")

    def _bad_names(self) -> list[str]:
        names = [*self.params, *self.tags, *{point.name for point in self.metrics}]
        return [
            f"the name {name!r} has other characters than letters, digits, _ - . space / :"
            for name in names
            if not _NAME.fullmatch(name)
        ]

    def _bad_artifacts(self) -> list[str]:
        paths = [PurePosixPath(path) for path in self.artifacts]
        outside = [path for path in paths if path.is_absolute() or ".." in path.parts]
        bad = [f"the path {path} leaves the MLflow run's folder" for path in outside]
        if sum(map(len, self.artifacts.values())) > MAX_ARTIFACT_BYTES:
            bad.append(f"its artifacts have more than {MAX_ARTIFACT_BYTES} bytes")
        return bad

    def fitted(self) -> "MlflowRun":
        """Returns the MLflow run with texts that are cut where MLflow would refuse them."""
        return replace(
            self,
            name=_cut(self.name, most=MAX_NAME_CHARS),
            params={name: _cut(text, most=MAX_PARAM_CHARS) for name, text in self.params.items()},
            tags={name: _cut(text, most=MAX_TAG_CHARS) for name, text in self.tags.items()},
        )

    @property
    def digest(self) -> str:
        """Digest of the content; MLflow runs with equal digests are not written again."""
        return sha256_of_bytes(self.to_json().encode())[:16]

    def to_json(self) -> str:
        """Returns one line of JSON, with NaN and infinities as Python spells them."""
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
        """Returns the MLflow run that `to_json` wrote."""
        payload: dict[str, Any] = json.loads(text)
        payload["metrics"] = [
            MetricPoint(name=name, value=value, step=step, timestamp_ms=timestamp_ms)
            for name, value, step, timestamp_ms in payload["metrics"]
        ]
        payload["artifacts"] = {k: base64.b64decode(v) for k, v in payload["artifacts"].items()}
        return cls(**payload)


def _cut(text: str, *, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
