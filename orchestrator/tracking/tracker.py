"""Starts and feeds the publisher process; a driver neither waits for MLflow nor fails with it."""

import contextlib
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
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
from workers.forked import module_command

_RESTART_WAIT_S = 5.0  # a publisher ends early only if it is killed, not if the server fails

# The MLflow client does not retry: it would create an MLflow run a second time if the first reply
# was late. The backlog retries, and first looks whether the MLflow run exists.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # saves two requests per MLflow run
}
_KILL_WAIT_S = 0.1
_COUNT_EVERY_S = 0.25
_UNWANTED = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


@dataclass(frozen=True, kw_only=True)
class PublishReport:
    """The numbers of MLflow runs that one tracker wrote or did not write."""

    num_published: int
    num_unchanged: int
    """MLflow runs that the server already had."""
    num_pending: int
    """MLflow runs that the server lacks; the study's next run publishes them from the store."""
    error: str | None
    """Why MLflow runs are pending, and the path of the log; None if none is pending."""
    left_out: str = ""
    """MLflow runs that could not be made at all, in one line; sending them again would not help."""


class Tracker:
    """The owner of the publisher process, which it starts, feeds, restarts and ends.

    All methods may be called from any thread. The tracker keeps MLflow runs until the publisher
    confirms them, so that nothing is lost if the publisher dies.
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
            study: The study's name, also the name of the MLflow experiment.
            experiment_tags: Tags of the experiment, for example its saved charts.
            log_path: File for the output of mlflow and the publisher.
            rebuild: Whether to delete the study's MLflow runs before the first one is written.
                They are deleted once, even if the publisher has to be restarted.
        """
        target = Target(
            uri=uri, study=study, experiment_tags=dict(experiment_tags), rebuild=rebuild
        )
        tracker = cls(target=target, log_path=log_path)
        tracker._supervisor.start()
        return tracker

    def publish(self, run: MlflowRun) -> None:
        """Queues an MLflow run; a later one with the same key replaces it."""
        with self._lock:
            self._unsettled[run.key] = run
            self._outbox.put(run)

    def num_pending(self) -> int:
        """Returns the number of MLflow runs that the publisher has not confirmed."""
        with self._lock:
            return len(self._unsettled)

    def state(self) -> str:
        """Returns `ok`, `unreachable: reason` or `refused: reason`."""
        with self._lock:
            return self._state

    def close(
        self, timeout_s: float, *, show_pending: Callable[[int], None] | None = None
    ) -> PublishReport:
        """Tries each remaining MLflow run once more, and ends the publisher.

        Returns early if the server does not answer, and after `timeout_s` in any case. The report
        counts unconfirmed MLflow runs as pending.

        Args:
            timeout_s: The longest time to wait, in seconds.
            show_pending: Is called again and again meanwhile, with the number of pending ones.
        """
        with self._lock:
            if self._close is None:
                self._close = Close(timeout_s=timeout_s)
                self._outbox.put(self._close)
        until_s = time.monotonic() + timeout_s
        while self._supervisor.is_alive() and (left_s := until_s - time.monotonic()) > 0:
            self._supervisor.join(min(left_s, _COUNT_EVERY_S))
            if show_pending is not None:
                show_pending(self.num_pending())
        self._out_of_time.set()
        while self._supervisor.is_alive():
            if self._process is not None:
                self._process.kill()
            self._supervisor.join(_KILL_WAIT_S)  # it may just be starting another publisher
        with self._lock:
            return self._report()

    def _report(self) -> PublishReport:
        reason = "the time to close was too short" if self._state == "ok" else self._state
        return PublishReport(
            num_published=self._outcomes["published"],
            num_unchanged=self._outcomes["unchanged"],
            num_pending=len(self._unsettled),
            error=f"{reason}; log: {self._log_path}" if self._unsettled else None,
        )

    def _supervise(self) -> None:
        """Runs one publisher after the other until the tracker has closed.

        A publisher that is killed while it closes is replaced too, if there is time left.
        """
        while True:
            fault = None
            try:
                exit_code = self._run_publisher()
            except OSError as error:
                exit_code, fault = 1, f"the publisher cannot be started ({error})"
            with self._lock:
                was_killed = exit_code < 0 and not self._out_of_time.is_set()
                is_over = self._close is not None and not was_killed
                if fault or not is_over:
                    reason = fault or "the publisher ended"
                    self._state = f"unreachable: {reason}; log: {self._log_path}"
                if is_over:
                    return
            if self._out_of_time.wait(_RESTART_WAIT_S):
                return

    def _run_publisher(self) -> int:
        """Runs one publisher until it ends; returns its exit code.

        Raises:
            OSError: The log cannot be written, or the process cannot be started.
        """
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 our own
                module_command("orchestrator.tracking.publisher"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # Ctrl-C in the terminal reaches only the driver
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
        """Returns the outbox for a new publisher: target, unconfirmed MLflow runs and `Close`."""
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
        """Removes a confirmed MLflow run, unless a newer one has replaced it meanwhile."""
        with self._lock:
            run = self._unsettled.get(message.key)
        # Not under the lock: the digest of a report takes tens of ms, and `publish` must not wait.
        if run is None or run.digest != message.digest:
            return
        with self._lock:
            if self._unsettled.get(message.key) is run:
                del self._unsettled[message.key]
                self._outcomes[message.outcome] += 1


def _feed(pipe: IO[bytes], outbox: "queue.SimpleQueue[Message | None]") -> None:
    """Writes messages to a publisher until it ends; runs in its own thread because it may block."""
    with contextlib.suppress(BrokenPipeError), pipe:
        while message := outbox.get():
            pipe.write(encode(message))
            pipe.flush()


def _environment() -> dict[str, str]:
    """Returns the driver's environment without variables of Ray and of an active MLflow run."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k not in _UNWANTED}
    return kept | _ENVIRONMENT
