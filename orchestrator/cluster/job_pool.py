"""Keeps worker processes for all jobs that are not trials: preparation, merging, measuring.

Plain Ray tasks would starve beside Tune, which keeps the placement groups of the actors that it
reuses. These workers are actors that exist before the Tuner starts, and stay.
"""

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from orchestrator.cluster.connection import create_worker, is_node_lost
from orchestrator.cluster.jobs import Job, JobEnd
from orchestrator.study.resources import Share
from workers.artifacts.manifests import Manifest
from workers.prepare.progress import PreparationProgress

DEPTH = 2
"""Merge jobs that a worker is given at once: one that it runs and one that waits, so that it is
never idle."""
POLL_S = 0.2
MAX_LOST = 3
"""Times that a job may lose its worker process, for example to the kernel's out-of-memory killer,
before the job fails."""


class _JobWorker:
    def __init__(self, worker: str, store_url: str, num_cpus: float) -> None:
        self._create = functools.partial(
            create_worker, worker, store_url=store_url, num_cpus=num_cpus
        )
        self._worker: Any = None

    def greet(self) -> None:
        """Returns once the worker is created; here, as Ray wraps errors of a constructor."""
        self._worker = self._create()

    def run(self, method: str, argument: object) -> bytes:
        manifest: Manifest = getattr(self._worker, method)(argument)
        return manifest.to_json()

    def report(self, method: str, argument: object) -> Iterator[PreparationProgress | bytes]:
        for progress in getattr(self._worker, method)(argument):
            yield progress
            if progress.committed is not None:
                yield progress.committed.to_json()


class JobPool:
    """A pool of job workers, and the thread that gives them jobs."""

    def __init__(self, *, worker: str, store_url: str, share: Share) -> None:
        """Creates an empty pool; see `start` and `resize`.

        Args:
            worker: The class that runs in worker processes, `module:Class`.
            store_url: The store that workers use.
            share: The cores and GPUs of one worker.
        """
        self._worker_args = (worker, store_url, share.cpu)
        self._share = share
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._running: dict[Any, tuple[Job, Any]] = {}
        """Job and worker, by Ray's reference to the call."""
        self._starting: dict[Any, Any] = {}
        """Workers that have not started yet, by Ray's reference to `greet`."""
        self._workers: list[Any] = []
        self._has_started = False
        """Whether any worker has started."""
        self._crash: Exception | None = None
        self._num_lost: dict[str, int] = {}
        self._num_wanted = 0
        self._reserve = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._feed, name="job-pool", daemon=True)

    def start(
        self,
        on_end: Callable[[JobEnd], None],
        *,
        on_progress: Callable[[Job, PreparationProgress], None] = lambda _, __: None,
    ) -> None:
        """Starts the thread that gives jobs to workers.

        Args:
            on_end: Is called from that thread, once for each job.
            on_progress: Is called from that thread, for each progress report of a job.
        """
        self._on_end = on_end
        self._on_progress = on_progress
        self._thread.start()

    def resize(self, num_workers: int, *, reserve: bool) -> None:
        """Sets the number of workers; workers that are too many finish their jobs first.

        Args:
            num_workers: Worker processes.
            reserve: Whether new workers hold their share of the cluster's resources. Without, they
                run beside trials, which suits a machine too small to set any resources aside.
        """
        with self._lock:
            self._num_wanted = num_workers
            self._reserve = reserve

    def submit(self, job: Job) -> None:
        """Queues a job; jobs start in the order of submission."""
        with self._lock:
            self._waiting.append(job)

    def cancel_waiting(self) -> None:
        """Removes every job that no worker has yet."""
        with self._lock:
            self._waiting.clear()

    def num_waiting(self) -> int:
        """Returns the number of jobs that no worker has yet."""
        with self._lock:
            return len(self._waiting)

    def num_unfinished(self) -> int:
        """Returns the number of jobs that were submitted and have not ended."""
        with self._lock:
            return len(self._running) + len(self._waiting)

    def is_idle(self) -> bool:
        """Returns whether every submitted job has ended.

        Raises:
            Exception: The error that ended the pool's thread, such as a store error in `on_end`, or
                that of a worker that cannot start.
        """
        if self._crash is not None:
            raise self._crash
        with self._lock:
            return not self._waiting and not self._running

    def close(self) -> None:
        """Ends the thread and the workers; running jobs are abandoned and commit nothing."""
        self._closing.set()
        self._thread.join()
        for worker in (*self._starting.values(), *self._workers):
            ray.kill(worker)

    def _feed(self) -> None:
        try:
            while not self._closing.is_set():
                self._feed_once()
        except Exception as error:  # noqa: BLE001 `is_idle` raises it in the waiting thread
            self._crash = error

    def _feed_once(self) -> None:
        with self._lock:
            self._fit_size()
            self._hand_out()
            references = list(self._running)
        if not references:
            time.sleep(POLL_S)
            return
        done, _ = ray.wait(references, num_returns=1, timeout=POLL_S)
        for reference in done:
            self._take(reference)

    def _fit_size(self) -> None:
        while len(self._workers) + len(self._starting) < self._num_wanted:
            worker = self._create()
            self._starting[worker.greet.remote()] = worker
        # A job given to a worker before it has started would wait for as long as Ray has no room.
        if self._starting:
            references = list(self._starting)
            up, _ = ray.wait(references, num_returns=len(references), timeout=0)
            for reference in up:
                self._greeted(reference)
        while self._starting and len(self._workers) + len(self._starting) > self._num_wanted:
            _, worker = self._starting.popitem()
            ray.kill(worker)
        busy = [worker for _, worker in self._running.values()]
        surplus = len(self._workers) - self._num_wanted
        for worker in [each for each in self._workers if each not in busy][: max(0, surplus)]:
            self._workers.remove(worker)
            ray.kill(worker)

    def _greeted(self, reference: Any) -> None:  # noqa: ANN401 Ray's references are untyped here
        """Takes a worker that has started, or has failed to.

        Raises:
            Exception: The worker's error, if no worker has started yet. Later, another node may do.
        """
        worker = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayTaskError as failure:
            ray.kill(worker)
            if not self._has_started:
                raise failure.cause or failure from failure
            return
        except RayError:
            pass  # its process has died, which the first job given to it will notice
        self._has_started = True
        self._workers.append(worker)

    def _create(self) -> Any:  # noqa: ANN401 Ray's actors are untyped here
        cpu, gpu = (self._share.cpu, self._share.gpu) if self._reserve else (0, 0)
        actor = ray.remote(_JobWorker).options(
            num_cpus=cpu, num_gpus=gpu, scheduling_strategy="SPREAD"
        )
        return actor.remote(*self._worker_args)

    def _hand_out(self) -> None:
        held = [worker for _, worker in self._running.values()]
        kept = self._workers[: self._num_wanted]  # the others end after their jobs
        for depth in range(DEPTH):
            for worker in kept:
                if self._waiting and held.count(worker) <= depth:
                    if depth and not self._can_queue(self._waiting[0]):
                        return
                    job = self._waiting.popleft()
                    self._running[_started(job, worker=worker)] = (job, worker)
                    held.append(worker)

    def _can_queue(self, job: Job) -> bool:
        """Returns whether a job should be given to a worker that runs another one.

        Not if another worker might be free for it earlier: preparations and measurements take
        seconds, and the last jobs are left to the workers that finish first.
        """
        return job.kind.is_merge and len(self._waiting) > self._num_wanted

    def _take(self, reference: Any) -> None:  # noqa: ANN401 Ray's references are untyped here
        """Takes a job's progress report or its end."""
        with self._lock:
            job, _ = self._running[reference]
        try:
            answer = ray.get(next(reference) if job.kind.reports_progress else reference)
            if isinstance(answer, PreparationProgress):
                self._on_progress(job, answer)
                return
            end = JobEnd(job=job, manifest=Manifest.from_json(answer, key=job.id))
        except RayTaskError as failure:
            end = JobEnd(job=job, error=failure.cause or failure, trace=str(failure))
        except RayError as failure:
            if self._retry_elsewhere(reference, is_counted=not is_node_lost(failure)):
                return
            end = JobEnd(job=job, error=failure, trace=str(failure))
        self._on_end(end)
        with self._lock:  # after the call: an idle pool has reported the end of every job
            del self._running[reference]

    def _retry_elsewhere(self, reference: Any, *, is_counted: bool) -> bool:  # noqa: ANN401 as above
        """Replaces a dead worker and queues its job again; False after `MAX_LOST` deaths."""
        with self._lock:
            job, worker = self._running[reference]
            if worker in self._workers:
                self._workers.remove(worker)
                ray.kill(worker)  # it may be alive: Ray also raises for an answer it cannot read
            self._num_lost[job.id] = self._num_lost.get(job.id, 0) + is_counted
            if self._num_lost[job.id] > MAX_LOST:
                return False
            del self._running[reference]
            self._waiting.appendleft(job)
            return True


def _started(job: Job, *, worker: Any) -> Any:  # noqa: ANN401 Ray's actors and references are untyped
    """Calls the job's method on a worker; returns Ray's reference, or references, to the result."""
    method = job.kind.value
    if job.kind.reports_progress:
        return worker.report.options(num_returns="streaming").remote(method, job.argument)
    return worker.run.remote(method, job.argument)
