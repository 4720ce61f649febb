"""Holds a study while a verb works on it on a cluster, and ends the work in good order.

The verbs are `run`, `resume`, `prepare` and `measure`.

The verb works inside `with held_session(...)`. Expected errors and stops end the block with a
message, after which the caller gets an `EndedEarlyError` with the exit code.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from orchestrator.cli.exit_codes import BAD_INPUT, FAILED, INTERRUPTED
from orchestrator.cli.leases import acquire_lease
from orchestrator.cli.signals import interrupting_signals, stopping_signals
from orchestrator.environment.problems import NoRoomError, VariableError
from orchestrator.lease.lease import Lease, LeaseError
from orchestrator.progress.say import say
from orchestrator.record.folder import StudyDamagedError
from orchestrator.run.growth import record_plan
from orchestrator.run.indexing import indexing
from orchestrator.run.measure_memory import measure_memory
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.republish import start_tracker
from orchestrator.run.session import Session
from orchestrator.run.stages import PreparationError
from orchestrator.search.searchers import SearcherError
from orchestrator.tracking.tracker import Tracker
from workers.own_methods.sources import OwnMethodError
from workers.store.machine_errors import MachineError
from workers.store.protocol import StoreError

CLOSE_EARLY_S = 5.0
"""Seconds that an early end waits for MLflow. The next run sends the rest."""
KEPT = "everything that was committed is kept"
AFTER_REPAIR = "then run the study file again: `resume` would use the files and fields of this run"
"""The next step if files of the user cannot be used; a repaired file is another file."""


class EndedEarlyError(Exception):
    """A verb ended before its work was done; the reason is printed already."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class _StoppedError(Exception):
    """Ctrl-C or SIGTERM has stopped the work."""


@dataclass(frozen=True, kw_only=True)
class HeldSession:
    """A study that this process holds, with the means to work on it."""

    opened: OpenedStudy
    """The study as it was when the lease was acquired."""
    tracker: Tracker | None
    """Publishes to MLflow; None if the verb publishes nothing."""
    console: Console
    stopping: threading.Event
    """Is set by a signal while trials and jobs run, and when the lease is lost."""
    lease: Lease
    next_step: str
    """A sentence on how the user goes on after an early end."""

    def session(self) -> Session:
        """Returns a session on the cluster.

        Raises:
            VariableError: The Ray that RAY_ADDRESS names cannot be joined.
        """
        # Ray takes more than a second to load, and a finished study does not need it.
        from orchestrator.cluster.ray_cluster import RayCluster

        cluster = RayCluster()
        cluster.check()
        return Session(
            opened=self.opened,
            cluster=cluster,
            tracker=self.tracker,
            stopping=self.stopping,
            stopping_signals=stopping_signals,
            on_cluster_lost=self._abandon,
            write_progress=self.lease.write_progress,
        )

    def measure_memory(self) -> OpenedStudy:
        """Measures the memory of trials for `gpu: auto`; returns the study with the result.

        Raises:
            NoRoomError, ConnectionError, VariableError: There is no GPU, or no cluster.
        """
        from orchestrator.cluster.ray_cluster import RayCluster

        cluster = RayCluster()
        cluster.check()
        return measure_memory(
            self.opened, cluster=cluster, console=self.console, on_cluster_lost=self._abandon
        )

    def end_if_stopped(self) -> None:
        """Ends the `with` block early if the work was stopped."""
        if self.stopping.is_set():
            raise _StoppedError

    def end_early(self, text: str, *, next_step: str | None = None) -> None:
        """Closes the tracker and prints why the work ends and how it goes on."""
        if self.tracker is not None:
            self.tracker.close(CLOSE_EARLY_S)
        say(self.console, text)
        say(self.console, next_step or self.next_step)

    def _abandon(self, reason: str) -> None:
        """Ends the process at once: the thread that runs Ray Tune hangs when the head is gone."""
        self.end_early(f"error: {reason}; {KEPT}")
        self.lease.release()
        sys.stdout.flush()
        os._exit(FAILED)


@contextmanager
def held_session(
    opened: OpenedStudy, *, console: Console, take_over: bool, publishes: bool, next_step: str
) -> Iterator[HeldSession]:
    """Holds a study for the length of a `with` block.

    Acquires the lease, reopens the study, writes its plan, writes heartbeats, and releases the
    lease at the end. A signal interrupts the block, except while trials and jobs run: these are
    stopped in order.

    Args:
        opened: The study, as opened without the lease.
        console: Where to print.
        take_over: Take the study without checking whether another driver is alive.
        publishes: Whether the verb publishes to MLflow.
        next_step: A sentence on how the user goes on after an early end.

    Raises:
        EndedEarlyError: The work failed or was stopped; the reason is printed.
    """
    try:
        with (
            interrupting_signals(),
            acquire_lease(opened, console=console, take_over=take_over) as lease,
        ):
            # Reopens the study: the previous holder may have committed more artifacts.
            fresh = opened.reopened()
            # `gc` keeps the artifacts that a plan in the store names.
            record_plan(fresh.plan, folder=fresh.folder, text=fresh.text)
            tracker = start_tracker(fresh) if publishes else None
            stopping = threading.Event()
            lease.start(lambda _: stopping.set())
            held = HeldSession(
                opened=fresh,
                tracker=tracker,
                console=console,
                stopping=stopping,
                lease=lease,
                next_step=next_step,
            )
            with _ending_early(held), indexing(fresh):
                yield held
    except (LeaseError, OwnMethodError, StoreError, StudyDamagedError) as error:
        say(console, f"error: {error}")
        raise EndedEarlyError(FAILED) from error


@contextmanager
def _ending_early(held: HeldSession) -> Iterator[None]:
    try:
        yield
    except PreparationError as error:
        next_step = AFTER_REPAIR if error.is_input_wrong else None
        held.end_early(f"error: {error}", next_step=next_step)
        raise EndedEarlyError(BAD_INPUT if error.is_input_wrong else FAILED) from error
    except (StoreError, MachineError, LeaseError, ConnectionError, SearcherError) as error:
        held.end_early(f"error: {error}")
        raise EndedEarlyError(FAILED) from error
    except (VariableError, NoRoomError) as error:
        held.end_early(f"error: {error}")
        raise EndedEarlyError(BAD_INPUT) from error
    except (_StoppedError, KeyboardInterrupt) as stop:
        held.end_early(f"stopped; {KEPT}")
        raise EndedEarlyError(INTERRUPTED) from stop
