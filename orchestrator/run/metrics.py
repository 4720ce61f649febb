"""Computes the metrics that a run offers to a monitoring system; does not use Ray."""

from collections.abc import Iterator, Mapping

from orchestrator.cluster.protocol import STATES, MetricValue
from orchestrator.costs.budget import BudgetKeeper
from orchestrator.record.study_state import StudyState


def metric_values(
    state: StudyState,
    *,
    budget_keeper: BudgetKeeper,
    running: frozenset[str],
    num_jobs_waiting: int,
) -> Iterator[MetricValue]:
    """Yields every metric of a study; a state that counts nothing has the value 0.

    Args:
        state: The state of the study.
        budget_keeper: Gives the trainings and merges that the budget leaves out, and the usage.
        running: Ids of the trainings that workers are running.
        num_jobs_waiting: Submitted preparation and merge jobs that no worker has taken yet.
    """
    left_out = budget_keeper.left_out()
    trainings = _trainings(state, running=running, left_out=left_out)
    yield from _by_state("mergesweep_trials", trainings)
    yield from _by_state("mergesweep_merges", _merges(state, left_out=left_out))
    runnable = {training.id for training in state.runnable_trainings}
    queues = {"trials": len(runnable - running - left_out), "jobs": num_jobs_waiting}
    for queue, depth in queues.items():
        yield MetricValue(name="mergesweep_queue_depth", value=depth, labels={"queue": queue})
    used = budget_keeper.usage()
    yield MetricValue(name="mergesweep_gpu_seconds", value=used.gpu_s)
    yield MetricValue(name="mergesweep_cpu_seconds", value=used.cpu_s)
    yield MetricValue(name="mergesweep_store_bytes", value=used.num_bytes)


def _by_state(name: str, counts: Mapping[str, int]) -> Iterator[MetricValue]:
    for label in STATES[name]:
        yield MetricValue(name=name, value=counts[label], labels={"state": label})


def _trainings(
    state: StudyState, *, running: frozenset[str], left_out: frozenset[str]
) -> Mapping[str, int]:
    possible = {training.id for training in state.possible_trainings}
    num_missing = len(state.committed.missing_trainings)
    return {
        "done": len(state.plan.trainings) - num_missing,
        "running": len(possible & running),
        "waiting": len(possible - running - left_out),
        "left_out": len(possible & left_out - running),
        "failed": max(0, num_missing - len(possible)),
    }


def _merges(state: StudyState, *, left_out: frozenset[str]) -> Mapping[str, int]:
    possible = {spec.id for spec in state.possible_merges}
    ready = {spec.id for spec in state.ready_merges}
    num_done = len(state.committed.merges)
    return {
        "done": num_done,
        "ready": len(ready - left_out),
        "waiting": len(possible - ready - left_out),
        "left_out": len(possible & left_out),
        "failed": max(0, len(state.plan.merges) - num_done - len(possible)),
    }
