"""Runs the publisher process, `python -m orchestrator.tracking.publisher`.

The tracker starts the process and writes to its standard input. The process ends when its input
ends, also if the driver was killed: then it has a limited time to publish all that it has read.
"""

import functools
import logging
import os
import queue
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from orchestrator.tracking.backlog import Backlog, Experiment
from orchestrator.tracking.database import database_path, empty_log
from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.protocol import Cleared, Close, Message, Target, decode, encode
from orchestrator.tracking.publisher_lock import PublisherLock

ORPHAN_TIMEOUT_S = 30.0
"""Time that a publisher has after its driver was killed, also while the driver waited for it."""

_TURN_TIMEOUT_S = ORPHAN_TIMEOUT_S + 5.0
_READ_BYTES = 4096
_NICENESS = 19  # lower priority than the workers, which Ray starts with niceness 15


def main() -> None:
    """Publishes until the driver sends `Close` or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C and then sends `Close`
    os.nice(_NICENESS)
    replies = _redirect_stdout()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    target = decode(sys.stdin.buffer.readline())
    assert isinstance(target, Target)
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, inbox.put), daemon=True).start()
    lock = PublisherLock(target)

    def reply(message: Message) -> None:
        _send(replies, message)

    backlog = Backlog(
        open_experiment=lambda: _open_experiment(target, lock=lock, reply=reply),
        reply=reply,
        clock=time.monotonic,
        jitter=random.random,
    )
    serve(backlog, inbox=inbox)
    if (database := database_path(target.uri)) is not None and database.exists():
        _end_log(database)


def serve(backlog: Backlog, *, inbox: "queue.SimpleQueue[Message]") -> None:
    """Adds MLflow runs to the backlog as they arrive and publishes them, until `Close`."""
    while True:
        try:
            message = inbox.get(timeout=backlog.wait_s())
        except queue.Empty:
            backlog.step()
            continue
        if isinstance(message, Close):
            backlog.flush()
            return
        assert isinstance(message, MlflowRun)
        backlog.add(message)


def _read(stream: BinaryIO, put: Callable[[Message], None]) -> None:
    """Reads all input at once, so that the pipe never fills; at its end sets a time limit.

    Reads on after `Close`: the driver has the pipe open for as long as it lives.
    """
    close = Close(timeout_s=ORPHAN_TIMEOUT_S)
    for line in stream:
        message = decode(line)
        if isinstance(message, Close):
            close = message
            break
        put(message)
    _exit_after(close.timeout_s)
    put(close)
    # Not through `stream`, whose lock would abort the process if it ends during the call.
    while os.read(stream.fileno(), _READ_BYTES):
        pass
    _exit_after(ORPHAN_TIMEOUT_S)


def _exit_after(seconds: float) -> None:
    limit = threading.Timer(seconds, os._exit, args=(1,))
    limit.daemon = True
    limit.start()


def _open_experiment(
    target: Target, *, lock: PublisherLock, reply: Callable[[Message], None]
) -> Experiment:
    """Takes the lock and connects to MLflow; deletes the old MLflow runs if this is a rebuild.

    An error in any of these steps fails the whole call, so that nothing is written before
    everything is deleted.
    """
    # Imported here because mlflow takes 3.5 s to load: the input is read meanwhile.
    from orchestrator.tracking.mlflow_experiment import MlflowExperiment  # noqa: PLC0415

    lock.acquire(timeout_s=_TURN_TIMEOUT_S)
    experiment = MlflowExperiment(target)
    if target.rebuild:
        reply(Cleared(num_runs=experiment.delete_runs()))
    return experiment


def _end_log(database: Path) -> None:
    """Leaves a database whose file is whole; another process that reads it may prevent that."""
    try:
        empty_log(database)
    except sqlite3.Error as error:
        logging.getLogger(__name__).warning("the log of %s is not empty: %s", database, error)


def _redirect_stdout() -> BinaryIO:
    """Returns the pipe to the driver, for replies; redirects all printed text to the log."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return replies


def _send(replies: BinaryIO, message: Message) -> None:
    try:
        replies.write(encode(message))
    except BrokenPipeError:
        _warn_of_lost_driver()


@functools.cache  # one warning, however many replies find nobody
def _warn_of_lost_driver() -> None:
    log = logging.getLogger(__name__)
    log.warning("the driver is gone; publishing the remaining MLflow runs")


if __name__ == "__main__":
    main()
