"""Runs one study to its end while parts of it are killed."""

import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults import Fault
from nodes import Cluster
from parts import Part
from servers import program
from surroundings import Surroundings, wait_for_cluster
from targets import Targets

_TICK_S = 0.1
_LOOK_S = 1.0
"""Seconds between two listings of the store."""
_MIN_PATIENCE_S, _PATIENCE = 240.0, 4.0
"""A driver hangs if it has not ended within this many seconds, and this many lengths of the
undisturbed study, after the last fault or repair."""
_DUMP_S = 2.0
_WORK = ("artifacts/", "in-flight/")


class StuckError(Exception):
    """A command that does not end or ends with an error; the message names the logs."""


@dataclass(kw_only=True)
class Injected:
    """An injected fault and its consequence."""

    fault: Fault
    num_checkpoints: int
    """Trials that had a checkpoint in the store."""
    driver_exit: int | None = None
    """Exit code of the driver that ended after the fault; None if the driver survived."""


@dataclass(kw_only=True)
class Disturbance:
    """One study under faults: its driver, the faults, and the restarts.

    The time until the next fault counts only while a driver runs. It starts at the driver's start
    or at the last fault.
    """

    around: Surroundings
    cluster: Cluster
    """The study's own cluster, not started yet."""
    folder: Path
    """Contains `study.yaml` and receives the logs; its name is the store's prefix."""
    faults: Sequence[Fault]
    undisturbed_s: float
    """Length of the undisturbed study, which decides when a driver hangs."""
    pace_s: float
    """Unit of the times between faults."""
    injected: list[Injected] = field(default_factory=list)
    num_drivers: int = 0
    seconds: float = 0.0
    """Length of the study, from the first driver's start to the last one's end."""

    def __post_init__(self) -> None:
        self._due = deque(self.faults)
        self._targets = Targets(around=self.around, cluster=self.cluster)
        self._patience_s = max(_MIN_PATIENCE_S, _PATIENCE * self.undisturbed_s)
        self._events = (self.folder / "events.log").open("w", buffering=1)
        self._driver = self._mergesweep("run", "study.yaml", name="driver")
        self._started_s = self._last_s = time.monotonic()
        self._restart_at_s = self._look_at_s = 0.0
        self._seen: set[str] = set()

    def run(self) -> None:
        """Runs the study until its driver ends with exit code 0.

        Raises:
            StuckError: The driver does not end.
            NotReadyError: The cluster does not start.
        """
        self.cluster.start()
        wait_for_cluster(self.cluster)
        self._started_s = self._last_s = time.monotonic()
        while not self._tick(time.monotonic()):
            time.sleep(_TICK_S)
        self.seconds = time.monotonic() - self._started_s
        self._targets.repair_all()

    def command(self, *arguments: str) -> str:
        """Runs another command of mergesweep to its end; returns its output.

        Raises:
            StuckError: The command ends with another code than 0, or not in time.
        """
        command = self._mergesweep(*arguments, name=f"mergesweep-{arguments[0]}")
        command.start()
        deadline_s = time.monotonic() + self._patience_s
        while (code := command.poll()) is None and time.monotonic() < deadline_s:
            time.sleep(_TICK_S)
        command.kill()
        self._note(f"{' '.join(arguments)}: ended with {code}")
        if code != 0:
            raise StuckError(f"{' '.join(arguments)} ended with {code}:\n{command.tail()}")
        return command.text()

    def close(self) -> None:
        """Kills driver and cluster, and starts the servers that other studies need."""
        self._driver.kill()
        self.cluster.kill()
        for server in (self.around.s3.part, self.around.mlflow.part):
            if not server.is_started:
                server.start()
        self._events.close()

    def _mergesweep(self, *arguments: str, name: str) -> Part:
        return Part(
            name,
            [program("mergesweep"), *arguments],
            environment={**self.around.environment, "RAY_ADDRESS": self.cluster.address},
            folder=self.folder,
        )

    def _tick(self, now_s: float) -> bool:
        """Does what is due; returns whether the study has ended with exit code 0."""
        for name in self._targets.repair(now_s):
            self._note(f"started {name}")
            self._last_s = now_s
        if not self._driver.is_started:
            self._start_driver(now_s)
        elif (code := self._driver.poll()) is not None:
            return self._driver_ended(code, now_s=now_s)
        elif self._due and self._is_time_for(self._due[0], now_s=now_s):
            self._inject(self._due[0], now_s=now_s)
        self._raise_if_stuck(now_s)
        return False

    def _start_driver(self, now_s: float) -> None:
        """Starts the driver as soon as cluster and store answer, as a user would."""
        is_time = now_s >= self._restart_at_s
        if is_time and self.cluster.is_ready() and self.around.s3.is_ready():
            self._seen = self._work_in_store() or self._seen
            self._driver.start()
            self.num_drivers += 1
            self._last_s = time.monotonic()
            self._note(f"driver {self.num_drivers} started")

    def _driver_ended(self, code: int, *, now_s: float) -> bool:
        self._driver.kill()
        self._note(f"driver {self.num_drivers} ended with {code}")
        self._last_s = now_s
        if code == 0:
            return True
        if self.injected and self.injected[-1].driver_exit is None:
            self.injected[-1].driver_exit = code
        return False

    def _is_time_for(self, fault: Fault, *, now_s: float) -> bool:
        if now_s < max(self._last_s + fault.after * self.pace_s, self._look_at_s):
            return False
        self._look_at_s = now_s + _LOOK_S
        return not fault.is_at_work or not self._work_in_store() <= self._seen

    def _inject(self, fault: Fault, *, now_s: float) -> None:
        """Injects a fault. If no such part runs at the moment, the fault stays due."""
        work = self._work_in_store()
        what = self._kill_driver(now_s + fault.pause_s) if fault.kind == "driver" else None
        what = what or self._targets.kill(fault, now_s=now_s)
        if what is None:
            return
        self._due.popleft()
        self._last_s, self._seen = now_s, work or self._seen
        num_checkpoints = len({key.split("/")[1] for key in work if key.startswith("in-flight/")})
        exit_code = -signal.SIGKILL if fault.kind == "driver" else None
        self.injected.append(
            Injected(fault=fault, num_checkpoints=num_checkpoints, driver_exit=exit_code)
        )
        num_manifests = sum(key.endswith("/manifest.json") for key in work)
        self._note(
            f"killed {fault.kind}: {what}; in the store {num_manifests} artifacts and checkpoints "
            f"of {num_checkpoints} trials"
        )

    def _kill_driver(self, restart_at_s: float) -> str:
        self._driver.kill(alone=True)
        self._restart_at_s = restart_at_s
        return f"driver {self.num_drivers}"

    def _work_in_store(self) -> set[str]:
        """Returns the keys of artifacts and checkpoints; none while the server is down."""
        prefix = f"{self.folder.name}/"
        keys = {key.removeprefix(prefix) for key in self.around.s3.keys(prefix)}
        return {key for key in keys if key.startswith(_WORK)}

    def _raise_if_stuck(self, now_s: float) -> None:
        if now_s - self._last_s < self._patience_s:
            return
        if self._driver.is_started:
            self._driver.send(signal.SIGABRT)  # Python writes the stacks of all threads to the log
            time.sleep(_DUMP_S)
        raise StuckError(
            f"driver {self.num_drivers} hangs; logs: {self.folder}\n{self._driver.tail()}"
        )

    def _note(self, event: str) -> None:
        self._events.write(f"{time.monotonic() - self._started_s:7.1f} s  {event}\n")
