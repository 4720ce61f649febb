"""The messages between driver and publisher: JSON lines on the publisher's stdin and stdout."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from orchestrator.tracking.mlflow_run import MlflowRun

EXPERIMENT_ID = "{experiment_id}"
"""Placeholder for the experiment's id in its tags: the id is known once the experiment exists."""
NOTE_TAG = "mlflow.note.content"
"""The description on the experiment's page, in Markdown."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The destination of MLflow runs, the first line that the publisher reads.

    It is not an argument of the command line, because the URI may contain a password.
    """

    uri: str
    study: str
    experiment_tags: Mapping[str, str]
    rebuild: bool
    """Whether to delete the study's MLflow runs before the first one is written."""


@dataclass(frozen=True, kw_only=True)
class Close:
    """The last line: the publisher tries each pending MLflow run once more and ends."""

    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Confirmation that the server has an MLflow run with this digest."""

    key: str
    digest: str
    outcome: Literal["published", "unchanged"]


@dataclass(frozen=True, kw_only=True)
class Cleared:
    """Notice that a rebuild has deleted the old MLflow runs and will delete nothing more.

    Nothing was written before it.
    """

    num_runs: int


@dataclass(frozen=True, kw_only=True)
class StateChanged:
    """The state of publishing: `ok`, `unreachable: reason` or `refused: reason`."""

    state: str


Message = Target | Close | Settled | Cleared | StateChanged | MlflowRun

_BY_NAME: dict[str, type[Target | Close | Settled | Cleared | StateChanged]] = {
    kind.__name__: kind for kind in (Target, Close, Settled, Cleared, StateChanged)
}


def encode(message: Message) -> bytes:
    """Returns a message as one line."""
    if isinstance(message, MlflowRun):
        return f"MlflowRun {message.to_json()}\n".encode()
    return f"{type(message).__name__} {json.dumps(asdict(message))}\n".encode()


def decode(line: bytes) -> Message:
    """Returns the message of one line."""
    name, _, text = line.decode().partition(" ")
    if name == "MlflowRun":
        return MlflowRun.from_json(text)
    fields: dict[str, Any] = json.loads(text)
    return _BY_NAME[name](**fields)
