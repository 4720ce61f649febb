"""Measures the driver on a cluster of declared GPUs, with trials that sleep and report.

Ray's own cluster utilities start the nodes on this machine. Everything but the training is real:
plan, driver, Ray Tune, a process per slot, commits to a local store, MLflow runs in SQLite. The
result is a line of JSON, with which `simulate_cluster.py` is calibrated and checked.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timed_worker
from ray.cluster_utils import Cluster
from study_run import run_with

from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.study.reader import parse_study
from workers.artifacts.manifests import Manifest

NUM_TASKS = 8
GPUS_PER_NODE = 8
CLOSE_TRACKING_S = 120.0
STUDY = """
name: load
tasks: embedded8
finetune:
  defaults: {{steps: 1}}
  axes: {{seed: {seeds}}}
groups: {{count: 1, size: 2}}
merge: [{{method: average}}]
resources: {{trial: {{cpu: 1, gpu: 1}}, merge: {{cpu: 1}}}}
store: {store}
"""


def measure(num_slots: int, *, num_trials: int, sleep_s: float, num_reports: int) -> dict[str, Any]:
    """Runs a study of a number of trials on a number of GPUs; returns what was measured."""
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    os.environ[timed_worker.SLEEP_VARIABLE] = str(sleep_s)
    os.environ[timed_worker.REPORTS_VARIABLE] = str(num_reports)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for first in range(0, num_slots, GPUS_PER_NODE):
        num_gpus = min(GPUS_PER_NODE, num_slots - first)
        cluster.add_node(num_cpus=2 * num_gpus, num_gpus=num_gpus)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        with tempfile.TemporaryDirectory() as folder:
            seeds = list(range(num_trials // NUM_TASKS))
            text = STUDY.format(seeds=seeds, store=Path(folder) / "store")
            opened = open_study(parse_study(text, source="benchmark"), text=text)
            driver_s = _run(opened)
            experts = list(opened.ledger.committed().experts.values())
            assert not opened.ledger.state().holes()
    finally:
        cluster.shutdown()
    return {
        "slots": num_slots,
        "trials": len(experts),
        "sleep_s": sleep_s,
        "reports": num_reports,
        **steady_state(experts, trial_s=sleep_s * num_reports),
        "tuner_thread_cpu_s": driver_s,
    }


def _run(opened: OpenedStudy) -> float:
    """Runs a study; returns the CPU seconds of the thread that runs Ray Tune."""
    before_s = time.thread_time()
    tracker = run_with("timed_worker:Worker", opened=opened)
    driver_s = time.thread_time() - before_s
    tracker.close(CLOSE_TRACKING_S)
    return driver_s


def steady_state(experts: Sequence[Manifest], *, trial_s: float) -> dict[str, float]:
    """Returns the figures from the time when every process has begun until the last trial begins.

    Args:
        experts: One per trial, with its process and its times.
        trial_s: The seconds that a trial sleeps.

    Returns:
        The length of this window, trials per second in it, and the utilisation: the fraction of the
        processes' time in which they slept, as a training would compute.
    """
    times = sorted((each.metrics["began_s"], each.created_at_s) for each in experts)
    firsts: dict[int, float] = {}
    for each in sorted(experts, key=lambda expert: expert.metrics["began_s"]):
        firsts.setdefault(each.metrics["process"], each.metrics["began_s"])
    start_s, stop_s = max(firsts.values()), times[-1][0]
    ended = sorted(end_s for _, end_s in times if start_s <= end_s <= stop_s)
    slept = [
        trial_s * (min(end_s, stop_s) - max(began_s, start_s)) / (end_s - began_s)
        for began_s, end_s in times
        if end_s > start_s and began_s < stop_s
    ]
    return {
        "processes": len(firsts),
        "all_started_after_s": start_s - min(firsts.values()),
        "window_s": stop_s - start_s,
        "trials_per_s": (len(ended) - 1) / (ended[-1] - ended[0]),
        "utilisation": sum(slept) / (len(firsts) * (stop_s - start_s)),
        "median_trial_s": statistics.median(end_s - began_s for began_s, end_s in times),
    }


def main() -> None:
    """Prints a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=8, help="GPUs of the cluster")
    parser.add_argument("--trials", type=int, default=400, help="a multiple of 8")
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds between two reports")
    parser.add_argument("--reports", type=int, default=1, help="reports of a trial")
    asked = parser.parse_args()
    measured = measure(
        asked.slots, num_trials=asked.trials, sleep_s=asked.sleep, num_reports=asked.reports
    )
    print(json.dumps(measured))  # noqa: T201 its output


if __name__ == "__main__":
    main()
