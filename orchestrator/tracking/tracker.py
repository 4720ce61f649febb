"""The driver's side of publishing: takes runs, never waits, never fails because of the server."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Self

from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.protocol import (
    Cleared,
    Close,
    Message,
    Settled,
    StateChanged,
    Target,
    decode,
    encode,
)

_RESTART_WAIT_S = 5.0  # only a killed publisher restarts; a failing server it survives

# The client itself never retries: it would repeat the creation of a run whose reply was late and
# leave two. The backlog retries for ever and looks first whether the run is there.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # else two more requests a run
}
_KILL_WAIT_S = 0.1
_UNWANTED = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


@dataclass(frozen=True, kw_only=True)
class PublishReport:
    """What became of the runs of one session."""

    num_published: int
    num_unchanged: int
    """Runs that the server already held."""
    num_pending: int
    """Runs that it does not hold; the next session publishes them from the store."""
    error: str | None
    """Why runs are pending, and where the log is."""


class Tracker:
    """Owns the publisher process: starts it, feeds it, starts it again if it dies, ends it.

    All methods may be called from any thread. Runs are kept here until the publisher confirms
    them, so a publisher that dies loses nothing.
    """

    def __init__(self, *, target: Target, log_path: Path) -> None:
        self._target = target
        self._log_path = log_path
        self._lock = threading.Lock()
        self._unsettled: dict[str, MlflowRun] = {}
        self._outcomes: dict[str, int] = {"published": 0, "unchanged": 0}
        self._state = "ok"
        self._outbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._close: Close | None = None
        self._out_of_time = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor = threading.Thread(target=self._supervise, name="tracker", daemon=True)

    @classmethod
    def start(
        cls,
        *,
        uri: str,
        study: str,
        experiment_tags: Mapping[str, str],
        log_path: Path,
        rebuild: bool = False,
    ) -> Self:
        """Starts the publisher for a study's experiment and returns at once.

        Args:
            uri: A tracking URI: `sqlite:////absolute/path/mlflow.db` or a server's address.
            study: The study's name, which is the experiment's.
            experiment_tags: Tags of the experiment itself, e.g. its chart views.
            log_path: Takes all that mlflow and the publisher print.
            rebuild: Deletes the study's runs before the first one is written, once, however
                often the publisher has to be started again.
        """
        target = Target(
            uri=uri, study=study, experiment_tags=dict(experiment_tags), rebuild=rebuild
        )
        tracker = cls(target=target, log_path=log_path)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        tracker._supervisor.start()
        return tracker

    def publish(self, run: MlflowRun) -> None:
        """Hands a run over; a later run with the same key replaces it."""
        with self._lock:
            self._unsettled[run.key] = run
            self._outbox.put(run)

    def num_pending(self) -> int:
        """Returns the number of runs that the server is not yet known to hold."""
        with self._lock:
            return len(self._unsettled)

    def state(self) -> str:
        """Returns `ok`, `unreachable: reason` or `refused: reason`."""
        with self._lock:
            return self._state

    def close(self, timeout_s: float) -> PublishReport:
        """Publishes what is left, each run tried once more, and ends the publisher.

        Returns early when the server does not answer; after `timeout_s` in any case. Runs that
        were not confirmed by then are counted as pending.
        """
        with self._lock:
            if self._close is None:
                self._close = Close(timeout_s=timeout_s)
                self._outbox.put(self._close)
        self._supervisor.join(timeout_s)
        self._out_of_time.set()
        while self._supervisor.is_alive():
            if self._process is not None:
                self._process.kill()
            self._supervisor.join(_KILL_WAIT_S)  # it may just be starting another
        with self._lock:
            return self._report()

    def _report(self) -> PublishReport:
        late = "the time to close was too short" if self._state == "ok" else self._state
        return PublishReport(
            num_published=self._outcomes["published"],
            num_unchanged=self._outcomes["unchanged"],
            num_pending=len(self._unsettled),
            error=f"{late}; log: {self._log_path}" if self._unsettled else None,
        )

    def _supervise(self) -> None:
        """Runs one publisher after the other until the tracker has closed.

        One that is killed while it closes has a successor too, for as long as there is time.
        """
        while True:
            exit_code = self._run_publisher()
            with self._lock:
                was_killed = exit_code < 0 and not self._out_of_time.is_set()
                if self._close is not None and not was_killed:
                    return
                self._state = f"unreachable: the publisher ended; log: {self._log_path}"
            if self._out_of_time.wait(_RESTART_WAIT_S):
                return

    def _run_publisher(self) -> int:
        """Runs a publisher, fed from a thread of its own, to its end; returns the exit code."""
        with self._log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.tracking.publisher"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # a Ctrl-C in the terminal reaches the driver alone
            )
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        writer = threading.Thread(
            target=_feed, args=(process.stdin, self._refill_outbox()), daemon=True
        )
        writer.start()
        with process.stdout:
            for line in process.stdout:
                self._receive(decode(line))
        exit_code = process.wait()
        self._outbox.put(None)
        writer.join()
        return exit_code

    def _refill_outbox(self) -> "queue.SimpleQueue[Message | None]":
        """Starts over with what an earlier publisher left unconfirmed, and what it was told."""
        with self._lock:
            self._outbox = queue.SimpleQueue()
            self._outbox.put(self._target)
            for run in self._unsettled.values():
                self._outbox.put(run)
            if self._close is not None:
                self._outbox.put(self._close)
            return self._outbox

    def _receive(self, message: Message) -> None:
        if isinstance(message, Settled):
            self._settle(message)
        elif isinstance(message, StateChanged):
            with self._lock:
                self._state = message.state
        elif isinstance(message, Cleared):
            with self._lock:
                self._target = replace(self._target, rebuild=False)

    def _settle(self, message: Settled) -> None:
        """Forgets a run, unless a newer one has taken its place meanwhile."""
        with self._lock:
            run = self._unsettled.get(message.key)
        # Outside the lock: the digest of a report takes tens of ms, and `publish` must not wait.
        if run is None or run.digest != message.digest:
            return
        with self._lock:
            if self._unsettled.get(message.key) is run:
                del self._unsettled[message.key]
                self._outcomes[message.outcome] += 1


def _feed(pipe: IO[bytes], outbox: "queue.SimpleQueue[Message | None]") -> None:
    """Writes to a publisher until it is gone; may block, which is why it has its own thread."""
    with contextlib.suppress(BrokenPipeError), pipe:
        while message := outbox.get():
            pipe.write(encode(message))
            pipe.flush()


def _environment() -> dict[str, str]:
    """Returns the driver's environment without Ray's variables and any MLflow run in progress."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k not in _UNWANTED}
    return kept | _ENVIRONMENT
