import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from orchestrator.lease import lease as lease_module
from orchestrator.lease.holder import Claim, beat_key, claim_key, find_holder, newest_holder
from orchestrator.lease.lease import STALE_AFTER_S, Clocks, Lease, LeaseLostError, StudyHeldError
from workers.store.opening import open_store
from workers.store.protocol import Store

STUDY = "small"
NUM_RACERS = 8
YEAR_S = 365 * 86_400.0
HOLD = f"""
import sys, time
from orchestrator.lease.lease import Lease
from workers.store.opening import open_store
lease = Lease.acquire(open_store(sys.argv[1]), "{STUDY}")
lease.start(print)
print("held", flush=True)
time.sleep(60)
"""


class FakeTime:
    """A clock that only sleeping moves; `on_sleep` is called meanwhile."""

    def __init__(self, *, on_sleep: Callable[[], None] = lambda: None) -> None:
        self.now_s = 0.0
        self._on_sleep = on_sleep

    def clock(self) -> float:
        """Returns the time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Moves the time."""
        self.now_s += seconds
        self._on_sleep()

    @property
    def clocks(self) -> Clocks:
        """Returns clocks that only sleeping moves."""
        return Clocks(monotonic=self.clock, sleep=self.sleep)


class SlowStore:
    """A store on which racing drivers wait for each other before they write their claims."""

    def __init__(self, store: Store, *, before_put: Callable[[], object]) -> None:
        self._store = store
        self._before_put = before_put

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 whatever the store has
        """Returns what the store has."""
        return getattr(self._store, name)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Waits, then writes."""
        self._before_put()
        return self._store.put_if_absent(key, content)


def claim_elsewhere(*, host: str = "far", started_at_s: float = 0.0) -> Claim:
    here = Claim.here(started_at_s=started_at_s)
    return replace(here, host=host, machine=f"{host} pid:[1]", user="alice", pid=4711)


def contents(store: Store) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key) for entry in store.list("")}


@contextmanager
def holding_process(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Starts a process that holds the study, and kills it at the end."""
    command = [sys.executable, "-c", HOLD, store.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_first_driver_gets_the_study(store: Store) -> None:
    """Without an earlier holder, the first generation is given without a wait."""
    lease = Lease.acquire(store, STUDY, clocks=Clocks(sleep=pytest.fail))
    assert lease.generation == 1
    lease.check()


def test_released_study_is_free_at_once(store: Store) -> None:
    """This also holds for a driver on another machine, whose pid cannot be looked up."""
    with Lease.acquire(store, STUDY, claim=claim_elsewhere()) as first:
        first.start(pytest.fail)
    assert find_holder(store, STUDY) is None
    second = Lease.acquire(store, STUDY, clocks=Clocks(sleep=pytest.fail))
    assert second.generation == 2


def test_release_deletes_the_objects_of_earlier_holders(store: Store) -> None:
    """After three generations the last claim and heartbeat stay, so that numbers only grow."""
    for _ in range(3):
        with Lease.acquire(store, STUDY):
            pass
    assert sorted(contents(store)) == [beat_key(STUDY, 3), claim_key(STUDY, 3)]


def test_live_holder_on_this_machine_is_named_at_once(store: Store) -> None:
    """The holder's process exists, so nothing is waited for."""
    with holding_process(store) as process, pytest.raises(StudyHeldError) as refused:
        Lease.acquire(store, STUDY, clocks=Clocks(sleep=pytest.fail))
    message = str(refused.value)
    assert f"pid {process.pid} since 20" in message
    assert all(part in message for part in (STUDY, "UTC", "--take-over", store.url))


def test_killed_holder_on_this_machine_is_followed_at_once(store: Store) -> None:
    """The holder is a zombie after SIGKILL, as in a container whose init collects no children."""
    with holding_process(store) as process:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        lease = Lease.acquire(store, STUDY, clocks=Clocks(sleep=pytest.fail))
    assert lease.generation == 2


def test_of_eight_drivers_at_once_one_gets_the_study(store: Store) -> None:
    """Seven drivers are refused, and the store names the eighth as the holder."""
    start = threading.Barrier(NUM_RACERS, timeout=20)

    def race(_: int) -> Lease | None:
        start.wait()
        try:
            return Lease.acquire(store, STUDY)
        except StudyHeldError:
            return None

    with ThreadPoolExecutor(NUM_RACERS) as threads:
        winners = [lease for lease in threads.map(race, range(NUM_RACERS)) if lease]
    assert len(winners) == 1
    assert newest_holder(store, STUDY).claim == winners[0].claim


def test_of_eight_that_take_over_at_once_one_gets_the_study(store: Store) -> None:
    """Taking over is meant for the dead run, and not for the other seven."""
    Lease.acquire(store, STUDY)
    together = threading.Barrier(NUM_RACERS, timeout=20)

    def race(_: int) -> bool:
        try:
            Lease.acquire(SlowStore(store, before_put=together.wait), STUDY, take_over=True)
        except StudyHeldError:
            return False
        return True

    with ThreadPoolExecutor(NUM_RACERS) as threads:
        assert sum(threads.map(race, range(NUM_RACERS))) == 1


def test_beating_holder_on_another_machine_is_left_alone(store: Store) -> None:
    """A new heartbeat ends the wait early; the user is told once that the driver waits."""
    holder, said = Lease.acquire(store, STUDY, claim=claim_elsewhere()), list[str]()
    holder.beat()
    fake = FakeTime(on_sleep=lambda: holder.beat() if fake.now_s == 5 else None)
    with pytest.raises(StudyHeldError, match="alice@far, pid 4711"):
        Lease.acquire(store, STUDY, say=said.append, clocks=fake.clocks)
    assert fake.now_s == 5
    assert len(said) == 1
    assert all(part in said[0] for part in ("alice@far", "30 s"))


def test_silent_holder_on_another_machine_is_followed_after_the_watch(store: Store) -> None:
    """Before that, the holder may be between two heartbeats."""
    Lease.acquire(store, STUDY, claim=claim_elsewhere()).beat()
    fake = FakeTime()
    lease = Lease.acquire(store, STUDY, clocks=fake.clocks)
    assert (lease.generation, fake.now_s) == (2, STALE_AFTER_S)


def test_release_ends_the_watch(store: Store) -> None:
    """If the holder releases the study while it is watched, the rest of the wait is saved."""
    holder = Lease.acquire(store, STUDY, claim=claim_elsewhere())
    fake = FakeTime(on_sleep=lambda: holder.release() if fake.now_s == 3 else None)
    lease = Lease.acquire(store, STUDY, clocks=fake.clocks)
    assert (lease.generation, fake.now_s) == (2, 3)


def test_rival_that_takes_over_during_the_watch_is_respected(store: Store) -> None:
    """Of two drivers that wait for one dead holder, the second finds the first."""
    Lease.acquire(store, STUDY, claim=claim_elsewhere())

    def take_it() -> None:
        if fake.now_s == STALE_AFTER_S:
            Lease.acquire(store, STUDY, claim=claim_elsewhere(host="third"), take_over=True)

    fake = FakeTime(on_sleep=take_it)
    with pytest.raises(StudyHeldError, match="alice@third"):
        Lease.acquire(store, STUDY, clocks=fake.clocks)


@pytest.mark.parametrize("offset_s", [-30 * YEAR_S, 30 * YEAR_S])
@pytest.mark.parametrize("is_beating", [True, False])
def test_wall_clocks_years_apart_change_nothing(
    tmp_path: Path, offset_s: float, *, is_beating: bool
) -> None:
    """A beating holder is respected and a silent one replaced, whatever both clocks say."""
    store = open_store(str(tmp_path))
    wall_s = time.time() + offset_s
    far = claim_elsewhere(started_at_s=wall_s)
    holder = Lease.acquire(store, STUDY, claim=far, clocks=Clocks(wall=lambda: wall_s))
    holder.beat()
    fake = FakeTime(on_sleep=holder.beat if is_beating else lambda: None)
    if is_beating:
        with pytest.raises(StudyHeldError):
            Lease.acquire(store, STUDY, clocks=fake.clocks)
    else:
        Lease.acquire(store, STUDY, clocks=fake.clocks)
        assert fake.now_s == STALE_AFTER_S


def test_take_over_waits_for_nobody(store: Store) -> None:
    """Even a live holder on this machine is replaced."""
    holder = Lease.acquire(store, STUDY)
    lease = Lease.acquire(store, STUDY, take_over=True, clocks=Clocks(sleep=pytest.fail))
    lease.check()
    with pytest.raises(LeaseLostError):
        holder.check()


def test_zombie_learns_of_its_successor_and_writes_nothing(store: Store) -> None:
    """A driver that wakes up after a takeover calls `on_lost` once and changes no byte."""
    zombie, reasons = Lease.acquire(store, STUDY), list[str]()
    Lease.acquire(store, STUDY, claim=claim_elsewhere(), take_over=True).beat()
    before = contents(store)
    zombie.start(reasons.append, beat_every_s=0.01)
    wait_until(lambda: zombie._lost_reason is not None)
    zombie.beat()
    zombie.release()
    assert contents(store) == before
    assert len(reasons) == 1
    assert "alice@far, pid 4711" in reasons[0]


def test_zombie_from_before_the_last_holder_is_lost_too(store: Store) -> None:
    """Its own objects and its successor's are already deleted."""
    zombie = Lease.acquire(store, STUDY)
    for _ in range(2):
        Lease.acquire(store, STUDY, take_over=True).release()
    with pytest.raises(LeaseLostError):
        zombie.check()
    assert sorted(contents(store)) == [beat_key(STUDY, 3), claim_key(STUDY, 3)]


def test_heartbeats_go_on_in_the_background(store: Store) -> None:
    """The counter grows until the release, and no further."""
    lease = Lease.acquire(store, STUDY)
    lease.start(pytest.fail, beat_every_s=0.01)
    wait_until(lambda: (beat := newest_holder(store, STUDY).beat) is not None and beat.counter > 2)
    lease.release()
    last = newest_holder(store, STUDY).beat
    assert last is not None
    assert last.released
    time.sleep(0.1)
    assert newest_holder(store, STUDY).beat == last


def test_release_from_the_loss_itself_does_not_wait_for_its_own_thread(store: Store) -> None:
    """A driver may call `release` from `on_lost`."""
    lease, took_s = Lease.acquire(store, STUDY), list[float]()
    Lease.acquire(store, STUDY, take_over=True)

    def stop(_: str) -> None:
        begun_s = time.monotonic()
        lease.release()
        took_s.append(time.monotonic() - begun_s)

    lease.start(stop)
    wait_until(lambda: bool(took_s))
    assert took_s[0] < lease_module.RELEASE_TIMEOUT_S / 2


def test_credentials_of_the_environment_reach_no_object_and_no_message(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte that a holder writes is searched, and the refusal's text too."""
    secret = "Zq8-very-secret"
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "USER", "LOGNAME", "X"):
        monkeypatch.setenv(name, secret)
    lease = Lease.acquire(store, STUDY)
    lease.beat()
    with pytest.raises(StudyHeldError) as refused:
        Lease.acquire(store, STUDY)
    monkeypatch.undo()
    written = [*contents(store).values(), str(refused.value).encode()]
    lease.release()
    written += contents(store).values()
    assert len(written) == 5
    assert not any(secret.encode() in content for content in written)
