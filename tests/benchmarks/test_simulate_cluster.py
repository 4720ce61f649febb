"""The simulated cluster against what is known without a simulation."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from simulate_cluster import Costs, Load, checked, fitted, simulate

FREE = Costs(report_s=0.0, trial_s=0.0, process_s=0.0, reply_s=0.0)
LOAD = Load(num_workers=10, num_trials=200, trial_s=60.0)


def test_a_driver_that_costs_nothing_leaves_no_worker_idle() -> None:
    """Ten workers do twenty trials of a minute each in twenty minutes."""
    outcome = simulate(LOAD, FREE)
    assert outcome.hours * 60 == pytest.approx(20)
    assert outcome.utilisation == pytest.approx(1.0, abs=0.01)
    assert outcome.driver_load == 0
    assert outcome.reports_per_s == pytest.approx(10 / 5, rel=0.01)
    assert outcome.trials_per_s == pytest.approx(10 / 60, rel=0.1)


def test_a_driver_at_its_limit_sets_the_pace() -> None:
    """Twelve reports of 0.8 s and a second per trial: 10.6 s of the driver, whoever waits."""
    outcome = simulate(LOAD, replace(FREE, report_s=0.8, trial_s=1.0))
    assert outcome.driver_load == pytest.approx(1.0, abs=0.01)
    assert outcome.trials_per_s == pytest.approx(1 / 10.6, rel=0.1)
    assert outcome.utilisation == pytest.approx(60 / 10.6 / 10, rel=0.1)


def test_workers_wait_for_each_report_even_if_the_driver_is_idle() -> None:
    """One worker that waits a second after every five works five sixths of the time."""
    alone = replace(LOAD, num_workers=1, num_trials=20)
    outcome = simulate(alone, replace(FREE, report_s=0.4, reply_s=0.6))
    assert outcome.utilisation == pytest.approx(5 / 6, abs=0.01)
    assert outcome.driver_load == pytest.approx(0.4 / 6, abs=0.01)


def test_processes_start_one_after_another() -> None:
    """The driver's part is serial, and each process then needs its own time."""
    outcome = simulate(LOAD, replace(FREE, start_s=0.5, process_s=10.0))
    assert outcome.started_after_s == pytest.approx(15.0)


def test_costs_are_recovered_from_runs_that_they_explain() -> None:
    """Trials that do not sleep keep the driver busy; three costs need three kinds of runs."""
    costs = Costs(report_s=0.003, trial_s=0.012, per_worker_s=0.00005)
    runs = [
        {
            "sleep_s": 0,
            "reports": reports,
            "processes": workers,
            "trials_per_s": 1 / (0.012 + reports * (0.003 + 0.00005 * workers)),
        }
        for reports, workers in [(1, 4), (20, 4), (20, 24), (5, 12)]
    ]
    found = fitted(runs, start_s=0.0, process_s=10.0)
    assert (found.trial_s, found.report_s, found.per_worker_s) == pytest.approx(
        (costs.trial_s, costs.report_s, costs.per_worker_s)
    )


def test_runs_that_slept_are_compared_with_their_simulation() -> None:
    """A run is simulated with its own number of processes, trials and reports."""
    run = {"sleep_s": 5.0, "reports": 12, "processes": 10, "trials": 200, "utilisation": 0.9}
    (check,) = checked([run, {"sleep_s": 0}], FREE)
    assert check["simulated"] == simulate(LOAD, FREE).utilisation
    assert check["measured"] == 0.9
