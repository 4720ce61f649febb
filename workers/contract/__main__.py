"""Checks users' merging methods: `python -m workers.contract`.

Reads a `MethodQuestion` as JSON from each line of standard input, and prints a line of JSON with a
`MethodReport` for each. Each method is checked in a process of its own, forked after the slow
imports, so that a method that crashes or never ends does not take the other answers with it.
"""

import json
import signal
import sys
from functools import partial
from pathlib import Path

from workers.contract.method_check import check_method
from workers.contract.report import MethodQuestion, MethodReport
from workers.forked import NoAnswerError, answer_of_fork

LIMIT_S = 300
"""Time for a method. Most take a second or two; one that learns in 500 steps took 73 s."""


def report_on(question: MethodQuestion, *, limit_s: int = LIMIT_S) -> MethodReport:
    """Checks a method in a process of its own."""
    try:
        return answer_of_fork(partial(check_method, question), limit_s=limit_s)
    except NoAnswerError as end:
        if end.is_by(signal.SIGALRM):
            return MethodReport(unchecked=f"{question.name} took longer than {limit_s} s")
        return MethodReport(
            unchecked=f"the check of {question.name} ended with exit code {end.exit_code}"
        )


def _leave_folder() -> None:
    """Removes this folder from the import path: nodes have no files beside a method's own."""
    here, ours = Path.cwd(), Path(__file__).parents[2]
    if here != ours:
        sys.path[:] = [each for each in sys.path if Path(each or ".").resolve() != here]


def main() -> int:
    """Answers every line of standard input; returns the exit code."""
    _leave_folder()
    for line in sys.stdin:
        report = report_on(MethodQuestion(**json.loads(line)))
        print(json.dumps(report.to_json()), flush=True)  # noqa: T201 output
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
