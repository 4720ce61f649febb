"""The publisher process: `python -m orchestrator.tracking.publisher`, fed by the tracker.

It ends when its input ends, which also happens when the driver is killed: then it has a bounded
time to publish what it was given.
"""

import logging
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

from orchestrator.tracking.backlog import Backlog, Experiment
from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.protocol import Cleared, Close, Message, Target, decode, encode
from orchestrator.tracking.publisher_lock import PublisherLock

ORPHAN_TIMEOUT_S = 30.0
"""How long a publisher goes on after its driver died without a word."""

_TURN_TIMEOUT_S = ORPHAN_TIMEOUT_S + 5.0
_NICENESS = 19  # below the workers, which Ray gives 15: publishing takes what they leave


def main() -> None:
    """Publishes until told to close, or until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver's Ctrl-C is the driver's to handle
    os.nice(_NICENESS)
    replies = _take_stdout()
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


def serve(backlog: Backlog, *, inbox: "queue.SimpleQueue[Message]") -> None:
    """Takes runs in as they come and publishes them, until a `Close` was read."""
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
    """Reads at once whatever comes, so that the driver's pipe never fills; then sets a limit."""
    close = Close(timeout_s=ORPHAN_TIMEOUT_S)
    for line in stream:
        message = decode(line)
        if isinstance(message, Close):
            close = message
            break
        put(message)
    limit = threading.Timer(close.timeout_s, os._exit, args=(1,))
    limit.daemon = True
    limit.start()
    put(close)


def _open_experiment(
    target: Target, *, lock: PublisherLock, reply: Callable[[Message], None]
) -> Experiment:
    """Loads mlflow, waits for its turn, connects, and deletes what a rebuild replaces.

    Fails as a whole, so that nothing is written before everything is deleted.
    """
    from orchestrator.tracking.mlflow_experiment import (  # noqa: PLC0415 3.5 s, after reading began
        MlflowExperiment,
    )

    lock.acquire(timeout_s=_TURN_TIMEOUT_S)
    experiment = MlflowExperiment(target)
    if target.rebuild:
        reply(Cleared(num_runs=experiment.delete_runs()))
    return experiment


def _take_stdout() -> BinaryIO:
    """Keeps the pipe to the driver for replies and lets all that prints go to the log instead."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return replies


def _send(replies: BinaryIO, message: Message) -> None:
    try:
        replies.write(encode(message))
    except BrokenPipeError:
        logging.getLogger(__name__).warning("the driver is gone; publishing the rest")


if __name__ == "__main__":
    main()
