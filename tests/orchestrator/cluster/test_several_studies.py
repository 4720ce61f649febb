"""Several drivers, each in its own process, on one cluster of two slots."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.study.reader import parse_study

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
HERE = Path(__file__).parent
WAIT_S = 120


@pytest.fixture(scope="module")
def cluster(no_ray: None) -> Iterator[str]:
    """Starts a cluster of two slots that drivers join; returns its address."""
    del no_ray
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()


@dataclass(kw_only=True)
class Driver:
    """A study in a directory of its own, and the process that runs it."""

    folder: Path
    fields: dict[str, Any]
    address: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Runs the study, or continues it."""
        (self.folder / "study.yaml").write_text(yaml.safe_dump(self.fields))
        environment = {
            **os.environ,
            "RAY_ADDRESS": self.address,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[2])]),
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "run_session.py"), str(self.folder / "study.yaml")],
                stdout=log,
                stderr=log,
                env=environment,
            )

    def num_running(self) -> int:
        """Returns the number of trials in live processes; a killed driver's processes die too."""
        pids = [_pid(note) for note in self.folder.glob("running-*")]
        return sum(Path(f"/proc/{pid}").exists() for pid in pids)

    def let_end(self) -> None:
        """Lets all trials end, and waits for the study."""
        (self.folder / "go").touch()
        assert self.process is not None
        assert self.process.wait(WAIT_S) == 0, self.log()

    def end(self, how: signal.Signals) -> None:
        """Ends the driver."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(WAIT_S)

    def log(self) -> str:
        """Returns the driver's output."""
        return (self.folder / "log").read_text()

    def opened(self) -> OpenedStudy:
        """Opens the study with its artifacts."""
        text = yaml.safe_dump(self.fields)
        return open_study(parse_study(text, source="study.yaml"), text=text)


def _pid(note: Path) -> str:
    try:
        return note.read_text()
    except FileNotFoundError:  # it ended in between
        return "none"


@pytest.fixture
def make_driver(
    cluster: str, study_fields: Callable[..., dict[str, Any]], tmp_path: Path
) -> Iterator[Callable[..., Driver]]:
    """Makes drivers, and ends the remaining ones."""
    drivers: list[Driver] = []

    def make(name: str, **resources: object) -> Driver:
        folder = tmp_path / name
        folder.mkdir()
        fields = study_fields(name=name, resources=resources, store=str(folder / "store"))
        drivers.append(Driver(folder=folder, fields=fields, address=cluster))
        return drivers[-1]

    yield make
    for each in drivers:
        each.end(signal.SIGKILL)


def wait_for(num_running: dict[str, int], *drivers: Driver) -> None:
    """Waits until each driver's study has a number of running trials."""
    deadline_s = time.monotonic() + WAIT_S
    while {each.fields["name"]: each.num_running() for each in drivers} != num_running:
        assert time.monotonic() < deadline_s, "\n".join(each.log() for each in drivers)
        time.sleep(0.1)


def is_complete(driver: Driver) -> bool:
    opened = driver.opened()
    return opened.is_finished() and not opened.ledger.state().holes()


def test_equals_share_and_a_killed_driver_frees_its_slots(
    make_driver: Callable[..., Driver],
) -> None:
    """The first driver gives back a slot; the killed study later ends, within its quota."""
    first, second = make_driver("first"), make_driver("second")
    first.start()
    wait_for({"first": 2}, first)
    second.start()
    wait_for({"first": 1, "second": 1}, first, second)
    assert list(first.folder.glob("left-*"))
    first.end(signal.SIGKILL)
    wait_for({"first": 0, "second": 2}, first, second)
    assert "shares the cluster with first (priority 0): may use 1 of 2 slots" in second.log()
    first.fields["resources"] = {"quota": {"cpu": 1}}
    second.let_end()
    first.start()
    wait_for({"first": 1}, first)
    time.sleep(2)
    assert first.num_running() == 1
    first.let_end()
    assert is_complete(first)
    assert is_complete(second)


@pytest.mark.large
def test_higher_priority_takes_over_and_the_other_goes_on_afterwards(
    make_driver: Callable[..., Driver],
) -> None:
    """The lower one says whom it waits for, and loses nothing but time."""
    low, high = make_driver("low"), make_driver("high", priority=5)
    low.start()
    wait_for({"low": 2}, low)
    high.start()
    wait_for({"low": 0, "high": 2}, low, high)
    assert len(list(low.folder.glob("left-*"))) == 2
    assert low.process is not None
    assert low.process.poll() is None
    high.let_end()
    wait_for({"low": 2}, low)
    assert "waits for high (priority 5), no slot of the cluster is left" in low.log()
    low.let_end()
    assert is_complete(low)
    assert is_complete(high)
