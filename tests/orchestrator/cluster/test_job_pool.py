import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayError
from waiting import wait_until

from merge.errors import NonFiniteMergeError
from orchestrator.cluster.connection import WorkerStartError
from orchestrator.cluster.job_pool import DEPTH, MAX_LOST, JobPool
from orchestrator.cluster.jobs import Job, JobEnd
from orchestrator.study.resources import Share
from workers.prepare.progress import PreparationProgress

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray")]
WORKER = "scripted_worker:Worker"
TIMEOUT_S = 60


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[Callable[..., JobPool]]:
    """Starts pools and closes them."""
    pools: list[JobPool] = []

    def make(
        on_end: Callable[[JobEnd], None],
        *,
        num_workers: int = 1,
        worker: str = WORKER,
        on_progress: Callable[[Job, PreparationProgress], None] = lambda _, __: None,
    ) -> JobPool:
        pool = JobPool(worker=worker, store_url=str(tmp_path), share=Share())
        pool.start(on_end, on_progress=on_progress)
        pool.resize(num_workers, reserve=False)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


def test_worker_that_cannot_start_ends_the_pool_with_one_line(
    make_pool: Callable[..., JobPool],
) -> None:
    """All jobs would meet it; the message has the reason and a command that shows it."""
    pool = make_pool(pytest.fail, worker="not_installed:Worker")
    pool.submit(Job(id="a", kind=Order.ANSWER, argument="a"))

    with pytest.raises(WorkerStartError) as caught:
        wait_until(pool.is_idle, timeout_s=TIMEOUT_S)
    message = str(caught.value)
    assert "ModuleNotFoundError: No module named 'not_installed'" in message
    assert message.endswith("-c 'import not_installed'")
    assert "\n" not in message


class Order(StrEnum):
    """Kinds of jobs; the values are methods of the scripted worker."""

    ANSWER = "answer"
    WAIT = "wait"
    REFUSE = "refuse"
    DIE = "die"
    DIE_ONCE = "die_once"
    PREPARE = "prepare"
    PREPARE_AND_REFUSE = "prepare_and_refuse"
    PREPARE_AND_DIE_ONCE = "prepare_and_die_once"

    @property
    def is_merge(self) -> bool:
        """Returns whether a worker may be given the job while it runs another one."""
        return not self.reports_progress

    @property
    def reports_progress(self) -> bool:
        """Returns whether the method yields reports."""
        return self.startswith("prepare")


def job(name: str, *, order: Order = Order.ANSWER) -> Job:
    return Job(id=name, kind=order, argument=name)


def num_running(pool: JobPool) -> int:
    """Returns the number of jobs that workers have."""
    return pool.num_unfinished() - pool.num_waiting()


def run(pool: JobPool, *jobs: Job) -> None:
    for each in jobs:
        pool.submit(each)
    wait_until(pool.is_idle)


def process_of(end: JobEnd) -> int:
    assert end.manifest is not None, end.trace
    return int(end.manifest.metrics["process"])


def made_at_s(end: JobEnd) -> float:
    assert end.manifest is not None, end.trace
    return float(end.manifest.metrics["made_at_s"])


def test_jobs_end_once_each_and_run_in_the_order_of_submission(
    make_pool: Callable[..., JobPool],
) -> None:
    """One worker process runs all jobs, first in, first out; two ends may arrive out of order."""
    ends: list[JobEnd] = []
    names = [f"job{number}" for number in range(6)]
    run(make_pool(ends.append), *map(job, names))
    assert [end.job.id for end in sorted(ends, key=made_at_s)] == names
    assert len({process_of(end) for end in ends}) == 1


def test_error_of_a_job_arrives_as_the_worker_raised_it(make_pool: Callable[..., JobPool]) -> None:
    """The driver decides about a retry by the type, and shows the worker's traceback."""
    ends: list[JobEnd] = []
    run(make_pool(ends.append), job("bad", order=Order.REFUSE), job("good"))
    by_id = {end.job.id: end for end in ends}  # of two workers, either may end first
    bad = by_id["bad"]
    assert type(bad.error) is NonFiniteMergeError
    assert str(bad.error) == "tensor bad is not finite"
    assert "scripted_worker.py" in bad.trace
    assert by_id["good"].manifest is not None


def test_job_whose_worker_is_killed_runs_again_elsewhere(make_pool: Callable[..., JobPool]) -> None:
    """A killed process loses neither its job nor the job that waited behind it."""
    ends: list[JobEnd] = []
    run(make_pool(ends.append), job("a", order=Order.DIE_ONCE), job("b"), job("c"))
    assert sorted(end.job.id for end in ends if end.manifest) == ["a", "b", "c"]


def test_job_that_reports_is_followed_to_its_end(make_pool: Callable[..., JobPool]) -> None:
    """Reports come in order, then the manifest, once; two ends may arrive out of order."""
    ends: list[JobEnd] = []
    seen: list[tuple[str, int]] = []
    pool = make_pool(
        ends.append, on_progress=lambda job, report: seen.append((job.id, report.num_done))
    )
    run(pool, job("a", order=Order.PREPARE), job("b", order=Order.PREPARE), job("c"))
    assert seen == [(name, num_done) for name in ("a", "b") for num_done in (1, 2, 3)]
    made = [(end.job.id, end.manifest.kind) for end in sorted(ends, key=made_at_s) if end.manifest]
    assert made == [
        ("a", "data"),
        ("b", "data"),
        ("c", "merge"),
    ]


def test_job_that_reports_may_fail_or_lose_its_worker(make_pool: Callable[..., JobPool]) -> None:
    """Errors keep their type; a job that lost its process begins again elsewhere."""
    ends: dict[str, JobEnd] = {}
    seen: list[int] = []
    pool = make_pool(
        lambda end: ends.update({end.job.id: end}),
        on_progress=lambda _, report: seen.append(report.num_done),
    )
    run(pool, job("bad", order=Order.PREPARE_AND_REFUSE))
    assert type(ends["bad"].error) is NonFiniteMergeError
    assert seen == [1]
    run(pool, job("a", order=Order.PREPARE_AND_DIE_ONCE), job("b"))
    assert seen == [1, 1, 1, 1, 2, 3]
    assert ends["a"].manifest is not None
    assert ends["b"].manifest is not None


def test_job_that_kills_every_worker_is_given_up(
    make_pool: Callable[..., JobPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `MAX_LOST` further tries the job fails, and the pool goes on."""
    monkeypatch.setattr("orchestrator.cluster.job_pool.MAX_LOST", 1)
    assert MAX_LOST > 1
    ends: list[JobEnd] = []
    pool = make_pool(ends.append)
    run(pool, job("killer", order=Order.DIE))
    run(pool, job("next"))
    assert isinstance(ends[0].error, RayError)
    assert [end.job.id for end in ends] == ["killer", "next"]


def test_grown_pool_runs_jobs_side_by_side(
    make_pool: Callable[..., JobPool], tmp_path: Path
) -> None:
    """With one worker two jobs would wait for each other; a second worker takes one."""
    ends: list[JobEnd] = []
    pool = make_pool(ends.append)
    run(pool, job("warm"))
    for name in ("first", "second"):
        pool.submit(job(name, order=Order.WAIT))
    wait_until(lambda: num_running(pool) == 1)
    pool.resize(2, reserve=False)
    (tmp_path / "second").touch()
    wait_until(lambda: "second" in [end.job.id for end in ends])
    (tmp_path / "first").touch()
    wait_until(pool.is_idle)
    assert len({process_of(end) for end in ends}) == 2


def test_shrunk_pool_lets_running_jobs_end(
    make_pool: Callable[..., JobPool], tmp_path: Path
) -> None:
    """A worker that is no longer wanted is not killed under its job."""
    ends: list[JobEnd] = []
    pool = make_pool(ends.append, num_workers=2)
    for name in ("first", "second"):
        pool.submit(job(name, order=Order.WAIT))
    wait_until(lambda: num_running(pool) == 2)
    pool.resize(1, reserve=False)
    time.sleep(0.5)
    for name in ("first", "second"):
        (tmp_path / name).touch()
    wait_until(pool.is_idle)
    run(pool, job("a"), job("b"), job("c"))
    assert len(ends) == 5
    assert pool._num_lost == {}
    assert len({process_of(end) for end in ends[2:]}) == 1


def test_shrunk_pool_gives_back_its_workers_while_jobs_wait(
    make_pool: Callable[..., JobPool], tmp_path: Path
) -> None:
    """A pool without workers keeps the waiting jobs until it grows again."""
    ends: list[JobEnd] = []
    pool = make_pool(ends.append, num_workers=2)
    for number in range(8):
        pool.submit(job(f"job{number}", order=Order.WAIT))
    wait_until(lambda: num_running(pool) == 2 * DEPTH)
    assert pool.num_unfinished() == 8
    pool.resize(0, reserve=False)
    for number in range(8):
        (tmp_path / f"job{number}").touch()
    wait_until(lambda: not num_running(pool))
    wait_until(lambda: not pool._workers)
    assert pool.num_unfinished() == 8 - 2 * DEPTH
    pool.resize(1, reserve=False)
    wait_until(pool.is_idle)
    assert len(ends) == 8


def test_last_jobs_are_left_to_the_workers_that_finish_first(
    make_pool: Callable[..., JobPool], tmp_path: Path
) -> None:
    """Given to a worker that runs a long job, the last one would wait beside an idle worker."""
    ends: list[JobEnd] = []
    pool = make_pool(ends.append, num_workers=2)
    for name in ("long", "short", "last"):
        pool.submit(job(name, order=Order.WAIT))
    wait_until(lambda: num_running(pool) == 2)
    for name in ("short", "last"):
        (tmp_path / name).touch()
    wait_until(lambda: len(ends) == 2)
    (tmp_path / "long").touch()
    wait_until(pool.is_idle)
    assert [end.job.id for end in ends] == ["short", "last", "long"]
    assert process_of(ends[0]) == process_of(ends[1]) != process_of(ends[2])


def test_preparation_waits_for_a_free_worker(make_pool: Callable[..., JobPool]) -> None:
    """It may take minutes, and so may the one before it."""
    most: list[int] = []
    pool: JobPool

    def note(*_: object) -> None:
        most.append(num_running(pool))

    pool = make_pool(lambda _: None, num_workers=1, on_progress=note)
    run(pool, *(job(f"job{number}", order=Order.PREPARE) for number in range(4)))
    assert set(most) == {1}


def test_worker_for_which_there_is_no_room_gets_no_job(make_pool: Callable[..., JobPool]) -> None:
    """A job given to a process that cannot start would wait until other studies make room."""
    ends: list[JobEnd] = []
    pool = make_pool(ends.append)
    pool.resize(50, reserve=True)
    run(pool, *[job(f"job{number}") for number in range(8)])
    assert len(ends) == 8
    assert len({process_of(end) for end in ends}) <= int(ray.cluster_resources()["CPU"])


def test_closed_pool_abandons_its_jobs(make_pool: Callable[..., JobPool]) -> None:
    """Closing waits for no job; uncommitted jobs run in the next session."""
    ends: list[JobEnd] = []
    pool = make_pool(ends.append)
    pool.submit(job("endless", order=Order.WAIT))
    wait_until(lambda: num_running(pool))
    started_s = time.monotonic()
    pool.close()
    assert time.monotonic() - started_s < 2
    assert ends == []


def test_error_in_the_driver_reaches_whoever_waits(make_pool: Callable[..., JobPool]) -> None:
    """If the store fails in `on_end`, the driver must not wait for ever."""

    def fail(end: JobEnd) -> None:
        raise OSError(f"cannot note {end.job.id}")

    with pytest.raises(OSError, match="cannot note a"):
        run(make_pool(fail), job("a"))
