"""Answers questions about models: `python -m workers.check`.

Reads the key of a `Use` from each line of standard input, and prints a line of JSON with a
`ModelReport` for each. Each use is checked in a process of its own, forked after the slow imports,
so that a model that crashes or never ends does not take the other answers with it.
"""

import json
import signal
import sys
import warnings
from functools import partial

import torch

from workers.check.report import (
    AdapterUse,
    Fault,
    FileUse,
    ModelReport,
    ModelUse,
    TowerUse,
    Use,
    use_of,
)
from workers.forked import NoAnswerError, answer_of_fork
from workers.without_compiler import without_compiler

with without_compiler():
    from workers.check.adapters import check_adapters
    from workers.check.model_check import check_model
    from workers.check.towers import check_tower
    from workers.check.weights import check_file

LIMIT_S = 120
"""Time for a use. The checked work takes seconds on a machine that is not overloaded."""
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}


def report_on(use: Use, *, limit_s: int = LIMIT_S) -> ModelReport:
    """Checks a use in a process of its own."""
    try:
        return answer_of_fork(partial(_report, use), limit_s=limit_s)
    except NoAnswerError as end:
        return _report_of_end(use, end=end, limit_s=limit_s)


def _report(use: Use) -> ModelReport:
    warnings.simplefilter("ignore")
    match use:
        case ModelUse():
            return check_model(use)
        case FileUse():
            return check_file(use)
        case TowerUse():
            return check_tower(use)
        case AdapterUse():
            return check_adapters(use)


def _report_of_end(use: Use, *, end: NoAnswerError, limit_s: int) -> ModelReport:
    """Returns the report on a check that ended without an answer."""
    subject = _subject(use)
    if end.is_by(signal.SIGALRM):
        return ModelReport(unchecked=f"the check of {subject} took longer than {limit_s} s")
    if end.is_by(signal.SIGKILL):
        return ModelReport(
            unchecked=f"the check of {subject} was killed, probably as this machine has too "
            "little memory for the model"
        )
    if end.is_by(*_CRASHES):
        return ModelReport(
            faults=(
                Fault(
                    kind="model",
                    fault=f"{subject} crashes with torch {torch.__version__} on this machine "
                    f"({signal.Signals(-end.exit_code).name})",
                    remedy="use another model or image size",
                ),
            )
        )
    return ModelReport(unchecked=f"the check of {subject} ended with exit code {end.exit_code}")


def _subject(use: Use) -> str:
    match use:
        case ModelUse():
            return f"{use.model} at {use.image_size} px"
        case FileUse():
            return use.path
        case TowerUse():
            return use.tower
        case AdapterUse():
            return f"adapters of {use.model}"


def main() -> int:
    """Answers every line of standard input; returns the exit code."""
    for line in sys.stdin:
        report = report_on(use_of(line))
        print(json.dumps(report.to_json()), flush=True)  # noqa: T201 output
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
