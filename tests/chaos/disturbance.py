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
"""Between two looks at the store."""
_MIN_PATIENCE_S, _PATIENCE = 240.0, 4.0
"""A driver hangs if it takes this long after the last fault and repair, and this many times as long
as the undisturbed study."""
_DUMP_S = 2.0
_WORK = ("artifacts/", "in-flight/")


class StuckError(Exception):
    """A command came to no end, or to a wrong one; the message says where the logs are."""


@dataclass(kw_only=True)
class Injected:
    """A fault that was injected, and what became of the run."""

    fault: Fault
    num_checkpoints: int
    """Trials that had a checkpoint in the store to go on from."""
    driver_exit: int | None = None
    """The exit code with which the driver ended after it; None if the run went on."""


@dataclass(kw_only=True)
class Disturbance:
    """Owns the driver of one study, injects faults, starts again what was killed.

    The next fault's clock runs only while a driver does, from its start or from the last fault.
    """

    around: Surroundings
    cluster: Cluster
    """The study's own, not started yet."""
    folder: Path
    """Has the `study.yaml` and takes the logs; its name is the store's prefix."""
    faults: Sequence[Fault]
    calm_s: float
    """How long the study takes undisturbed; by which a driver hangs."""
    pace_s: float
    """The length by which faults come."""
    injected: list[Injected] = field(default_factory=list)
    num_drivers: int = 0
    seconds: float = 0.0
    """How long the study took, from the first driver's start to the last one's end."""

    def __post_init__(self) -> None:
        self._due = deque(self.faults)
        self._targets = Targets(around=self.around, cluster=self.cluster)
        self._patience_s = max(_MIN_PATIENCE_S, _PATIENCE * self.calm_s)
        self._events = (self.folder / "events.log").open("w", buffering=1)
        self._driver = self._mergesweep("run", "study.yaml", name="driver")
        self._started_s = self._last_s = time.monotonic()
        self._restart_at_s = self._look_at_s = 0.0
        self._seen: set[str] = set()

    def run(self) -> None:
        """Runs the study until its driver ends with 0.

        Raises:
            StuckError: It came to no end.
            NotReadyError: The cluster did not start.
        """
        self.cluster.start()
        wait_for_cluster(self.cluster)
        self._started_s = self._last_s = time.monotonic()
        while not self._tick(time.monotonic()):
            time.sleep(_TICK_S)
        self.seconds = time.monotonic() - self._started_s
        self._targets.repair_all()

    def command(self, *arguments: str) -> str:
        """Runs another command of mergesweep to its end; returns what it printed.

        Raises:
            StuckError: It did not end with 0, or not in time.
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
        """Kills driver and cluster, starts what they share with other studies."""
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
        """Does what is due; True when the study has ended with 0."""
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
        """Starts the driver once cluster and store are there, as whoever runs it would."""
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
        """Injects a fault, unless no such part runs at the moment: then it stays due."""
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
            self._driver.send(signal.SIGABRT)  # Python writes every thread's stack to the log
            time.sleep(_DUMP_S)
        raise StuckError(
            f"driver {self.num_drivers} came to no end; logs: {self.folder}\n{self._driver.tail()}"
        )

    def _note(self, event: str) -> None:
        self._events.write(f"{time.monotonic() - self._started_s:7.1f} s  {event}\n")
