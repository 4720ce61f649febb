"""Measures the cost of a trial besides its training, with 2,000 trials that train nothing.

Everything else is real: the plan, Ray Tune on this machine, commits to a local store, merge jobs
(one per eight trials, which compute nothing either) and MLflow runs in SQLite.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from study_run import run_with

from orchestrator.cli.verbs.run import CLOSE_TRACKING_S
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.run.write_outputs import publish_outputs, write_outputs
from orchestrator.study.reader import parse_study
from orchestrator.tracking.tracker import PublishReport

NUM_TASKS = 8
NUM_BARE_TRIALS = 40
"""Trials of Tune with its defaults, which take seconds each."""
BARE_TUNE = Path(__file__).with_name("bare_tune.py")
STUDY = """
name: trial-overhead
tasks: embedded8
finetune:
  defaults: {{steps: 1}}
  axes: {{seed: {seeds}}}
groups: {{count: 1, size: 2}}
merge: [{{method: average}}]
store: {store}
"""


@dataclass(frozen=True, kw_only=True)
class TrialOverhead:
    """The measured cost of trials."""

    num_trials: int
    ms_per_trial: float
    """Time per trial, from the first expert's commit to the last one's."""
    quarter_ms: tuple[float, ...]
    """`ms_per_trial` of each quarter of the trials."""
    ms_to_held: float
    """Time per trial, from the first commit until tables, report and MLflow runs are written."""
    requests_per_trial: float
    """Requests to the store per trial, by workers and driver."""
    driver_mib: float
    """The driver's peak resident memory."""
    published: PublishReport


def measure(num_trials: int) -> TrialOverhead:
    """Runs a study with a number of trials in a temporary directory."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = list(range(num_trials // NUM_TASKS))
        text = STUDY.format(seeds=seeds, store=Path(folder) / "store")
        opened = open_study(parse_study(text, source="benchmark"), text=text)
        published = _run(opened)
        held_at_s = time.time()
        made = sorted(each.created_at_s for each in opened.ledger.committed().experts.values())
        assert not opened.ledger.state().holes()
        return TrialOverhead(
            num_trials=len(made),
            ms_per_trial=_ms_per_trial(made),
            quarter_ms=tuple(_ms_per_trial(made[each]) for each in _quarters(len(made))),
            ms_to_held=(held_at_s - made[0]) / len(made) * 1000,
            requests_per_trial=_num_requests(opened) / len(made),
            driver_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            published=published,
        )


def _run(opened: OpenedStudy) -> PublishReport:
    """Runs a study as `mergesweep run` does, with another worker."""
    tracker = run_with("noop_worker:Worker", opened=opened)
    committed = opened.ledger.committed()
    results = StudyResults.of(committed)
    publish_outputs(
        committed,
        results=results,
        make_page=lambda drawn: write_outputs(opened, results=results, drawn=drawn),
        publish=tracker.publish,
    )
    return tracker.close(CLOSE_TRACKING_S)


def _ms_per_trial(made: list[float]) -> float:
    return (made[-1] - made[0]) / (len(made) - 1) * 1000


def _quarters(count: int) -> list[slice]:
    bounds = [count * quarter // 4 for quarter in range(5)]
    return [slice(start, end) for start, end in itertools.pairwise(bounds)]


def _num_requests(opened: OpenedStudy) -> int:
    """Returns the requests of the driver and of all workers.

    A worker's last expert has the worker's count from before its commit. That commit makes two more
    requests: a file and a manifest.
    """
    by_process: dict[int, int] = {}
    for manifest in opened.ledger.committed().experts.values():
        process = manifest.metrics["process"]
        before = manifest.metrics["num_requests_before"]
        by_process[process] = max(before + 2, by_process.get(process, 0))
    return opened.artifacts.store.num_requests + sum(by_process.values())


def bare_rows(num_trials: int) -> list[tuple[str, str, str]]:
    """Returns the rows of Ray Tune alone, with kept processes and with its defaults."""
    warm, cold = _bare_ends("--warm", num_trials=num_trials), _bare_ends(num_trials=NUM_BARE_TRIALS)
    quarters = ", ".join(f"{_ms_per_trial(warm[each]):.1f}" for each in _quarters(len(warm)))
    return [
        (
            f"Ray Tune alone, kept processes, no files: one of {num_trials} no-op trials",
            f"{_ms_per_trial(warm):.1f} ms",
            "",
        ),
        ("the same, by quarters", f"{quarters} ms", ""),
        (
            f"Ray Tune alone, its defaults: one of {NUM_BARE_TRIALS} no-op trials",
            f"{_ms_per_trial(cold):.0f} ms",
            "",
        ),
    ]


def _bare_ends(*options: str, num_trials: int) -> list[float]:
    """Returns the times at which trials of Ray Tune alone ended, in seconds."""
    command = [sys.executable, str(BARE_TUNE), "--trials", str(num_trials), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    ends: list[float] = json.loads(done.stdout.splitlines()[-1])
    assert len(ends) == num_trials
    return ends


def rows(measured: TrialOverhead) -> list[tuple[str, str, str]]:
    """Returns the table's rows: what, measured, bound."""
    quarters = ", ".join(f"{each:.1f}" for each in measured.quarter_ms)
    published = measured.published.num_published
    return [
        (f"one of {measured.num_trials} no-op trials", f"{measured.ms_per_trial:.1f} ms", "15 ms"),
        ("the same, by quarters of the study", f"{quarters} ms", "no growth"),
        (
            f"the same, until tables and {published} MLflow runs are written",
            f"{measured.ms_to_held:.1f} ms",
            "",
        ),
        ("requests to the store a trial", f"{measured.requests_per_trial:.2f}", "8"),
        ("peak memory of the driver", f"{measured.driver_mib:.0f} MiB", ""),
    ]


def main() -> None:
    """Prints the table's rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000, help="a multiple of 8")
    num_trials = parser.parse_args().trials
    for line in [*rows(measure(num_trials)), *bare_rows(num_trials)]:
        print("| " + " | ".join(line) + " |")  # noqa: T201 its output


if __name__ == "__main__":
    main()
