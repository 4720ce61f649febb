"""Simulates one driver with up to thousands of GPUs, event by event, from measured costs.

A worker trains for some seconds, reports, and waits until the driver has dealt with the report.
The driver deals with one message after another. The costs come from `cluster_load.py`, whose
measured utilisation the simulation must reproduce (`--check`) before it is believed.
"""

import argparse
import heapq
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.cluster.trial_runner import report_interval_s

CHECKPOINT_S = 30.0
"""The least seconds between two checkpoints by default."""
REQUESTS_PER_TRIAL = 5
"""To the store: the listing for a checkpoint, the expert's file and manifest, and the listing and
deletion of checkpoints at the end."""
REQUESTS_PER_CHECKPOINT = 2
"""The upload, and the deletion of the checkpoint before it."""
MLFLOW_REQUESTS_PER_RUN = 5
"""The bound that the tracking room keeps to."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The driver's seconds for one message, and the delays outside of the driver."""

    report_s: float
    """A report of a running trial, with few workers."""
    trial_s: float
    """The end of a trial and the start of the next one, beyond its last report."""
    per_worker_s: float = 0.0
    """A message costs this much more for each live worker: Tune waits for all of them at once."""
    start_s: float = 0.0
    """The driver's part of starting one worker process."""
    process_s: float = 10.0
    """From the request of a worker process until its first step: imports, base and images."""
    reply_s: float = 0.002
    """From the driver's answer until the worker goes on."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """A study on a cluster."""

    num_workers: int
    num_trials: int
    trial_s: float
    """Seconds of training of a trial, without any waiting."""
    report_every_s: float | None = None
    """None for the interval that the product takes with so many workers."""

    @property
    def num_reports(self) -> int:
        """The reports of a trial."""
        interval_s = self.report_every_s or report_interval_s(self.num_workers)
        return max(1, round(self.trial_s / interval_s))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The simulated figures; rates and fractions are of the steady state."""

    hours: float
    """From the start to the end of the last trial."""
    started_after_s: float
    """Until every worker has begun its first trial."""
    utilisation: float
    """The fraction of the workers' time in which they trained."""
    driver_load: float
    """The fraction of the time in which the driver was busy."""
    trials_per_s: float
    reports_per_s: float
    store_requests_per_s: float
    mlflow_requests_per_s: float


def simulate(load: Load, costs: Costs) -> Outcome:
    """Simulates a study from the first process to the last trial.

    The steady state is from the time when every worker has begun a trial until no trial waits.
    """
    num_reports = load.num_reports
    think_s = load.trial_s / num_reports
    per_report_s = costs.report_s + costs.per_worker_s * load.num_workers
    num_workers = min(load.num_workers, load.num_trials)
    # A worker's event is its next report: (time, worker, reports left after it).
    free_s = 0.0
    events: list[tuple[float, int, int]] = []
    for worker in range(num_workers):
        free_s += costs.start_s
        heapq.heappush(events, (free_s + costs.process_s + think_s, worker, num_reports - 1))
    steady_s = free_s + costs.process_s
    waiting = load.num_trials - num_workers
    free_s = busy_s = trained_s = end_s = 0.0
    num_seen = num_ended = 0
    stop_s = float("inf")
    while events:
        now_s, worker, left = heapq.heappop(events)
        is_steady = steady_s <= now_s < stop_s
        service_s = per_report_s + (costs.trial_s if left == 0 else 0.0)
        free_s = max(now_s, free_s) + service_s
        if is_steady:
            busy_s += service_s
            trained_s += think_s
            num_seen += 1
            num_ended += left == 0
        if left == 0:
            end_s = free_s
            if waiting == 0:
                stop_s = min(stop_s, now_s)
                continue
            waiting -= 1
            left = num_reports
        heapq.heappush(events, (free_s + costs.reply_s + think_s, worker, left - 1))
    window_s = max(1e-9, min(stop_s, end_s) - steady_s)
    trials_per_s = num_ended / window_s
    checkpoints_per_s = num_workers / CHECKPOINT_S if load.trial_s > CHECKPOINT_S else 0.0
    return Outcome(
        hours=end_s / 3600,
        started_after_s=steady_s,
        utilisation=min(1.0, trained_s / (num_workers * window_s)),
        driver_load=min(1.0, busy_s / window_s),
        trials_per_s=trials_per_s,
        reports_per_s=num_seen / window_s,
        store_requests_per_s=trials_per_s * REQUESTS_PER_TRIAL
        + checkpoints_per_s * REQUESTS_PER_CHECKPOINT,
        mlflow_requests_per_s=trials_per_s * MLFLOW_REQUESTS_PER_RUN,
    )


def fitted(measured: Iterable[dict[str, Any]], *, start_s: float, process_s: float) -> Costs:
    """Returns the costs that explain runs of `cluster_load.py` whose trials did not sleep.

    With `--sleep 0` the driver is always busy, so a trial of r reports takes it
    `trial_s + r * (report_s + per_worker_s * workers)`. Least squares over the runs.
    """
    import numpy as np  # noqa: PLC0415 only to fit

    runs = [each for each in measured if each["sleep_s"] == 0]
    rows = [[1.0, each["reports"], each["reports"] * each["processes"]] for each in runs]
    times = [1 / each["trials_per_s"] for each in runs]
    solution, *_ = np.linalg.lstsq(np.array(rows), np.array(times), rcond=None)
    trial_s, report_s, per_worker_s = (max(0.0, float(each)) for each in solution)
    return Costs(
        report_s=report_s,
        trial_s=trial_s,
        per_worker_s=per_worker_s,
        start_s=start_s,
        process_s=process_s,
    )


def checked(measured: Iterable[dict[str, Any]], costs: Costs) -> Iterator[dict[str, float]]:
    """Yields measured and simulated utilisation of each run whose trials slept."""
    for run in measured:
        if run["sleep_s"] == 0:
            continue
        load = Load(
            num_workers=run["processes"],
            num_trials=run["trials"],
            trial_s=run["sleep_s"] * run["reports"],
            report_every_s=run["sleep_s"],
        )
        outcome = simulate(load, replace(costs, process_s=0.0))
        yield {
            "workers": run["processes"],
            "reports_per_s_offered": run["processes"] / run["sleep_s"],
            "measured": run["utilisation"],
            "simulated": outcome.utilisation,
            "driver_load": outcome.driver_load,
        }


def main() -> None:
    """Prints costs, checks and outcomes as JSON, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measured", type=Path, help="lines of JSON by cluster_load.py")
    parser.add_argument("--workers", type=int, nargs="+", default=[1000])
    parser.add_argument("--trials", type=int, default=50_000)
    parser.add_argument("--trial-s", type=float, nargs="+", default=[60, 600, 3600])
    parser.add_argument(
        "--report-s", type=float, nargs="+", default=[None], help="by default the product's"
    )
    parser.add_argument("--start-s", type=float, default=0.05, help="see Costs.start_s")
    parser.add_argument("--process-s", type=float, default=10.0, help="see Costs.process_s")
    asked = parser.parse_args()
    lines = [json.loads(line) for line in asked.measured.read_text().splitlines() if line]
    costs = fitted(lines, start_s=asked.start_s, process_s=asked.process_s)
    _print({"costs": asdict(costs)})
    for check in checked(lines, costs):
        _print({"check": check})
    for num_workers in asked.workers:
        for trial_s in asked.trial_s:
            for report_s in asked.report_s:
                load = Load(
                    num_workers=num_workers,
                    num_trials=asked.trials,
                    trial_s=trial_s,
                    report_every_s=report_s,
                )
                _print({"load": asdict(load), "outcome": asdict(simulate(load, costs))})


def _print(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")


if __name__ == "__main__":
    main()
