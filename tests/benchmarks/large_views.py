"""Measures report and MLflow of a study with thousands of experts that were never trained.

Plan, tables, report, figures and MLflow runs are real; manifests and their scores are made up.

    PYTHONPATH=.:tests/support python tests/benchmarks/large_views.py --experts 10000
    ... --tracking http://127.0.0.1:5000 --server-pid 1234
"""

import argparse
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import requests
from made_study import made_ledger

from orchestrator.plan.plan import build_plan
from orchestrator.record.committed import Committed
from orchestrator.record.ledger import Ledger
from orchestrator.report.page import render_report
from orchestrator.results.study_results import StudyResults
from orchestrator.run.write_outputs import publish_outputs
from orchestrator.study.reader import parse_study
from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.protocol import Target
from orchestrator.tracking.study_runs import axis_views
from orchestrator.tracking.ui import UI_ENVIRONMENT
from orchestrator.tracking.views import experiment_tags

NUM_TASKS = 8
STUDY = """
name: large-views
tasks: embedded8
finetune:
  defaults: {{steps: 100}}
  axes: {{lr: [0.0001, 0.001, 0.01], seed: {seeds}}}
groups: {{count: 1, size: 4}}
merge: [{{method: average}}, {{method: task_arithmetic, scaling: 0.4}}]
store: ./nothing-is-stored
"""


class Meter:
    """Prints what a step costs: wall time, this process's CPU time, and that of a server."""

    def __init__(self, server_pid: int | None) -> None:
        self._pid = server_pid
        self.num_requests = 0

    @contextmanager
    def step(self, what: str, *, per: int) -> Iterator[None]:
        """Measures a `with` block and prints its cost for each of `per` things."""
        before, began_s, sent = self._cpu_s(), time.monotonic(), self.num_requests
        yield
        wall_s = time.monotonic() - began_s
        cpu = [after - start for after, start in zip(self._cpu_s(), before, strict=True)]
        texts = [f"{1000 * each / per:.2f} ms" for each in (wall_s, *cpu)]
        requests_text = f"{(self.num_requests - sent) / per:.2f} requests"
        print(f"| {what} | {wall_s:.1f} s | {' | '.join(texts)} | {requests_text} |")  # noqa: T201 output

    def count_requests(self) -> None:
        """Counts every request that this process sends from now on."""
        send = requests.Session.send

        def counting(session: requests.Session, *args: object, **kwargs: object) -> object:
            self.num_requests += 1
            return send(session, *args, **kwargs)  # type: ignore[arg-type]

        requests.Session.send = counting  # type: ignore[assignment, method-assign]

    def _cpu_s(self) -> tuple[float, float]:
        own = os.times()
        return own.user + own.system, _tree_cpu_s(self._pid) if self._pid else 0.0


def _tree_cpu_s(pid: int) -> float:
    """Returns the CPU time of a process and its children, in seconds."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(
        _tree_cpu_s(int(child)) for child in children
    )


def measure(ledger: Ledger, *, text: str, tracking: str, meter: Meter) -> None:
    """Prints the costs of tables, report and MLflow runs."""
    committed = ledger.committed()
    num = len(committed.experts)
    print("| step | wall | wall each | own CPU each | server's CPU each | requests each |")  # noqa: T201
    with meter.step("tables and means", per=num):
        results = StudyResults.of(committed)
    with meter.step("report", per=num):
        page = render_report(
            study="large-views",
            results=results,
            holes=(),
            datasets={},
            facts={},
            study_yaml=text,
        )
    print(f"report: {len(page.encode()) / 1e6:.2f} MB")  # noqa: T201 its output
    with meter.step("making the MLflow runs, with figures", per=num):
        runs = made_runs(committed, results=results, page=page)
    write_runs(runs, tags=experiment_tags(axis_views(committed.plan)), uri=tracking, meter=meter)


def made_runs(committed: Committed, *, results: StudyResults, page: str) -> list[MlflowRun]:
    """Returns the MLflow runs of a study as the end of a run makes them."""
    runs: list[MlflowRun] = []
    left_out = publish_outputs(
        committed, results=results, make_page=lambda _: page, publish=runs.append
    )
    assert not left_out
    return runs


def write_runs(
    runs: Sequence[MlflowRun], *, tags: Mapping[str, str], uri: str, meter: Meter
) -> None:
    """Writes MLflow runs as the publisher does and prints the costs by kind."""
    os.environ |= {**UI_ENVIRONMENT, "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own imports warn of their dependencies
        from orchestrator.tracking.mlflow_experiment import MlflowExperiment  # noqa: PLC0415

        target = Target(uri=uri, study="large-views", experiment_tags=tags, rebuild=False)
        experiment = MlflowExperiment(target)
        experiment.check()
        meter.count_requests()
        for kind in dict.fromkeys(run.kind for run in runs):
            of_kind = [run for run in runs if run.kind == kind]
            with meter.step(f"writing {len(of_kind):,} of kind {kind}", per=len(of_kind)):
                for run in of_kind:
                    experiment.publish(run)


def main() -> None:
    """Prints the costs as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=10_000)
    parser.add_argument("--tracking", help="address of MLflow; a new SQLite file if left out")
    parser.add_argument("--server-pid", type=int, help="main process of the server at --tracking")
    given = parser.parse_args()
    text = STUDY.format(seeds=list(range(max(1, given.experts // NUM_TASKS - 2))))
    ledger = made_ledger(build_plan(parse_study(text, source="benchmark")))
    with TemporaryDirectory() as folder:
        tracking = given.tracking or f"sqlite:///{folder}/mlflow.db"
        measure(ledger, text=text, tracking=tracking, meter=Meter(given.server_pid))


if __name__ == "__main__":
    main()
