"""`mergesweep merge`, for merge_speed.py: CPU time is counted after the imports too.

python merge_ours.py requests.json answers.json
"""

import json
import sys
import time
from pathlib import Path

import workers.merge_files  # noqa: F401 the command would load it, and all that it needs
from orchestrator import merge_command  # noqa: F401 as above
from orchestrator.cli import cli


def main(requests: str, answers: str) -> None:
    """Gives the first request to the command line."""
    started = time.process_time()
    (request,) = json.loads(Path(requests).read_text())
    settings = [f"--set={name}={value}" for name, value in request["parameters"].items()]
    options = ["--method", request["method"], "--base", request["base"], "-o", request["out"]]
    words = ["merge", *options, *settings, "--overwrite", *request["experts"]]
    cli(words, standalone_mode=False)
    cpu_s = time.process_time() - started
    Path(answers).write_text(json.dumps({"errors": [None], "cpu_s": cpu_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
