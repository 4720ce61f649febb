"""The program of a submission, which runs on the head: checks the nodes, then runs the study.

    python -m orchestrator.cli.job_main

Uses only Python's standard library until it has checked that the other packages are installed. If
the study cannot run, it prints the reasons for the submitter and ends with exit code 2, before
anything is scheduled.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from eval.counts import counted
from orchestrator.cli.exit_codes import BAD_INPUT, FAILED
from orchestrator.cluster.submission import CHECKED, JOB_INPUT_FILE, PROBLEM
from orchestrator.cluster.upload import STUDY_FILE
from orchestrator.environment.startup import settle_environment

DRIVER_PACKAGES = ("click", "matplotlib", "mlflow", "pyarrow", "pydantic", "ray", "rich", "yaml")
"""Import names of the packages that the driver needs in addition to a worker's."""


def main() -> NoReturn:
    """Runs the study that was uploaded with this command."""
    settle_environment(os.environ)
    missing = [name for name in DRIVER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        _refuse([f"on the head: {sys.executable}, its `python`, lacks {', '.join(missing)}"])
    job_input = json.loads(Path(JOB_INPUT_FILE).read_text(encoding="utf-8"))
    _check_nodes(
        paths=job_input["paths"],
        store_url=job_input["store"],
        packages=job_input.get("packages", []),
        methods=job_input.get("methods", {}),
    )
    from orchestrator.cli.command_line import cli  # noqa: PLC0415 its packages are checked only now

    sys.argv[0] = "mergesweep"  # for the commands that the run prints
    cli(["run", STUDY_FILE], prog_name="mergesweep")
    raise AssertionError("click ends the process")


def _check_nodes(
    *, paths: dict[str, str], store_url: str, packages: list[str], methods: dict[str, str]
) -> None:
    from orchestrator.cluster.connection import ray_connection  # noqa: PLC0415 as above
    from orchestrator.cluster.node_check import WORKER_PACKAGES, check_nodes  # noqa: PLC0415 as above

    with ray_connection(_give_up):
        found = check_nodes(
            paths=paths,
            store_url=store_url,
            packages=(*WORKER_PACKAGES, *packages),
            methods=methods,
        )
    if found.problems:
        _refuse(found.problems)
    nodes = counted(found.num_nodes, "node")
    print(f"{CHECKED} {nodes} can run the study and write to {store_url}", flush=True)  # noqa: T201


def _refuse(problems: Iterable[str]) -> NoReturn:
    for problem in problems:
        print(f"{PROBLEM} {' '.join(problem.split())}", flush=True)  # noqa: T201 the job's log
    sys.exit(BAD_INPUT)


def _give_up(reason: str) -> None:
    """Ends the process from another thread: calls to Ray hang once the head is gone."""
    print(f"{PROBLEM} {reason}", flush=True)  # noqa: T201 as above
    os._exit(FAILED)


if __name__ == "__main__":
    main()
