"""Answers questions about models: `python -m workers.check`.

Reads the key of a `Use` from each line of standard input, and prints a line of JSON with a
`ModelReport` for each. Each use is checked in a process of its own, forked after the slow imports,
so that a model that crashes or never ends does not take the other answers with it.
"""

import json
import multiprocessing
import os
import signal
import sys
import warnings
from multiprocessing.connection import Connection

import torch

from workers.check.report import Fault, FileUse, ModelReport, ModelUse, TowerUse, Use, use_of
from workers.without_compiler import without_compiler

with without_compiler():
    from workers.check.model_check import check_model
    from workers.check.towers import check_tower
    from workers.check.weights import check_file

LIMIT_S = 120
"""Time for a use. The checked work takes seconds on a machine that is not overloaded."""
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}


def report_on(use: Use, *, limit_s: int = LIMIT_S) -> ModelReport:
    """Checks a use in a process of its own."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_check, args=(use, sender), kwargs={"limit_s": limit_s})
    process.start()
    sender.close()
    try:
        fields = receiver.recv()
    except EOFError:
        process.join()
        return _report_of_end(use, code=process.exitcode or 0, limit_s=limit_s)
    process.join()
    return ModelReport.from_json(fields)


def _check(use: Use, sender: Connection, *, limit_s: int) -> None:
    signal.alarm(limit_s)  # its default action ends the process, also inside native code
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # models may print
    warnings.simplefilter("ignore")
    sender.send(_report(use).to_json())


def _report(use: Use) -> ModelReport:
    match use:
        case ModelUse():
            return check_model(use)
        case FileUse():
            return check_file(use)
        case TowerUse():
            return check_tower(use)


def _report_of_end(use: Use, *, code: int, limit_s: int) -> ModelReport:
    """Returns the report on a check that ended without an answer."""
    subject = _subject(use)
    if -code == signal.SIGALRM:
        return ModelReport(unchecked=f"the check of {subject} took longer than {limit_s} s")
    if -code == signal.SIGKILL:
        return ModelReport(
            unchecked=f"the check of {subject} was killed, probably as this machine has too "
            "little memory for the model"
        )
    if -code in _CRASHES:
        return ModelReport(
            faults=(
                Fault(
                    kind="model",
                    fault=f"{subject} crashes with torch {torch.__version__} on this machine "
                    f"({signal.Signals(-code).name})",
                    remedy="use another model or image size",
                ),
            )
        )
    return ModelReport(unchecked=f"the check of {subject} ended with exit code {code}")


def _subject(use: Use) -> str:
    match use:
        case ModelUse():
            return f"{use.model} at {use.image_size} px"
        case FileUse():
            return use.path
        case TowerUse():
            return use.tower


def main() -> int:
    """Answers every line of standard input; returns the exit code."""
    for line in sys.stdin:
        report = report_on(use_of(line))
        print(json.dumps(report.to_json()), flush=True)  # noqa: T201 output
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
