"""Runs `mergesweep merge` for merge_speed.py and counts the CPU time after the imports.

python merge_ours.py requests.json answers.json
"""

import atexit
import json
import sys
import time
from pathlib import Path

from orchestrator.cli import main as cli
from orchestrator.cli.fast_exit import loading

with loading():  # as the command does
    import workers.merging.merge_files  # noqa: F401


def main(requests: str, answers: str) -> None:
    """Runs the first request with the command line, which ends the process as for a user."""
    started = time.process_time()
    (request,) = json.loads(Path(requests).read_text())

    def answer() -> None:
        cpu_s = time.process_time() - started
        Path(answers).write_text(json.dumps({"errors": [None], "cpu_s": cpu_s}))

    atexit.register(answer)  # a failure changes the exit code
    settings = [f"--set={name}={value}" for name, value in request["parameters"].items()]
    options = ["--method", request["method"], "--base", request["base"], "-o", request["out"]]
    sys.argv = ["mergesweep", "merge", *options, *settings, "--overwrite", *request["experts"]]
    cli.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
