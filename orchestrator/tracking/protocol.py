"""What driver and publisher say to each other: JSON lines over the publisher's stdin and stdout."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from orchestrator.tracking.mlflow_run import MlflowRun

EXPERIMENT_ID = "{experiment_id}"
"""Stands in an experiment's tags for its id, which is known only once it exists."""
NOTE_TAG = "mlflow.note.content"
"""The description on the experiment's page, in Markdown."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where runs go: the publisher's first line. Never on a command line, for its password."""

    uri: str
    study: str
    experiment_tags: Mapping[str, str]
    rebuild: bool
    """Deletes the study's runs there before the first one is written."""


@dataclass(frozen=True, kw_only=True)
class Close:
    """The last line: try each pending run once more and end."""

    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A run that the server now holds with this digest."""

    key: str
    digest: str
    outcome: Literal["published", "unchanged"]


@dataclass(frozen=True, kw_only=True)
class Cleared:
    """What a rebuild deletes is deleted; nothing was written yet, and nothing more may go."""

    num_runs: int


@dataclass(frozen=True, kw_only=True)
class StateChanged:
    """How publishing goes: `ok`, `unreachable: reason` or `refused: reason`."""

    state: str


Message = Target | Close | Settled | Cleared | StateChanged | MlflowRun

_BY_NAME: dict[str, type[Target | Close | Settled | Cleared | StateChanged]] = {
    kind.__name__: kind for kind in (Target, Close, Settled, Cleared, StateChanged)
}


def encode(message: Message) -> bytes:
    """Writes a message as one line."""
    if isinstance(message, MlflowRun):
        return f"MlflowRun {message.to_json()}\n".encode()
    return f"{type(message).__name__} {json.dumps(asdict(message))}\n".encode()


def decode(line: bytes) -> Message:
    """Reads one line."""
    name, _, text = line.decode().partition(" ")
    if name == "MlflowRun":
        return MlflowRun.from_json(text)
    fields: dict[str, Any] = json.loads(text)
    return _BY_NAME[name](**fields)
