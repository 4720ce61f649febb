"""What a submission runs on the head: checks the nodes, then `mergesweep run`.

    python -m orchestrator.cli.job_main

Loads nothing but Python's own until it has seen that the rest is there. What the submitter is to
be told ends it with exit code 2, before anything is scheduled.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from orchestrator.cluster.submission import CHECKED, PROBLEM, SUBMITTED_FILE
from orchestrator.cluster.upload import SHIPPED_STUDY

DRIVER_PACKAGES = ("click", "matplotlib", "mlflow", "pyarrow", "pydantic", "ray", "rich", "yaml")
"""Import names of what the driver loads, besides what a worker does."""
_FAILED, _BAD_INPUT = 1, 2


def main() -> NoReturn:
    """Runs the study that was shipped with this command."""
    missing = [name for name in DRIVER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        _refuse([f"on the head: {sys.executable}, its `python`, lacks {', '.join(missing)}"])
    told = json.loads(Path(SUBMITTED_FILE).read_text(encoding="utf-8"))
    _check_nodes(paths=told["paths"], store_url=told["store"])
    from orchestrator.cli.main import cli  # noqa: PLC0415 only now it is known to load

    sys.argv[0] = "mergesweep"  # in the commands that it prints
    cli(["run", SHIPPED_STUDY], prog_name="mergesweep")
    raise AssertionError("click ends the process")


def _check_nodes(*, paths: dict[str, str], store_url: str) -> None:
    from orchestrator.cluster.connection import ray_connection  # noqa: PLC0415 as above
    from orchestrator.cluster.node_check import check_nodes  # noqa: PLC0415 as above

    with ray_connection(_give_up):
        found = check_nodes(paths=paths, store_url=store_url)
    if found.problems:
        _refuse(found.problems)
    nodes = f"{found.num_nodes} node{'s' * (found.num_nodes != 1)}"
    print(f"{CHECKED} {nodes} can run the study and write to {store_url}", flush=True)  # noqa: T201


def _refuse(problems: Iterable[str]) -> NoReturn:
    for problem in problems:
        print(f"{PROBLEM} {' '.join(problem.split())}", flush=True)  # noqa: T201 the job's log
    sys.exit(_BAD_INPUT)


def _give_up(reason: str) -> None:
    """Ends the process from another thread: calls to Ray hang once the head is gone."""
    print(f"{PROBLEM} {reason}", flush=True)  # noqa: T201 as above
    os._exit(_FAILED)


if __name__ == "__main__":
    main()
