import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from orchestrator.lease import lease as lease_module
from orchestrator.lease.holder import Claim, beat_key, claim_key, find_holder, to_json
from orchestrator.lease.lease import (
    SILENT_AFTER_S,
    STALE_AFTER_S,
    Clocks,
    Lease,
    LeaseLostError,
    StudyHeldError,
)
from workers.store.local import LocalStore
from workers.store.protocol import Entry, Store, StoreUnavailableError

STUDY = "small"
NUM_RACERS = 8


class FakeTime:
    """A clock that only sleeping moves."""

    now_s = 0.0

    def clock(self) -> float:
        """Returns the time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Moves the time."""
        self.now_s += seconds

    @property
    def clocks(self) -> Clocks:
        """Returns clocks that only sleeping moves."""
        return Clocks(monotonic=self.clock, sleep=self.sleep)


class FailingStore(LocalStore):
    """A local store that can be switched to fail, or to hang, in every write."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.is_failing = False
        self.hangs: Callable[[bytes], bool] = lambda _: True
        self.answers = threading.Event()
        self.answers.set()

    def put(self, key: str, content: bytes) -> None:
        """Fails or hangs if it is switched to."""
        if self.hangs(content):
            self.answers.wait()
        if self.is_failing:
            raise StoreUnavailableError(f"{key}: no answer")
        super().put(key, content)


class WeakStore(LocalStore):
    """A local store that ignores the condition of a put, as some S3 servers do."""

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Overwrites the object and reports success."""
        self.put(key, content)
        return True


class LateListing(LocalStore):
    """A local store that lists nothing yet, as a network mount may for seconds."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yields nothing; fails a caller that asks again and again."""
        assert self.num_requests < 50, prefix
        yield from ()


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


@pytest.fixture
def failing(tmp_path: Path) -> FailingStore:
    return FailingStore(tmp_path / "store")


def claim_elsewhere(*, host: str = "far", started_at_s: float = 0.0) -> Claim:
    here = Claim.here(started_at_s=started_at_s)
    return replace(here, host=host, machine=f"{host} pid:[1]", user="alice", pid=4711)


def is_lost(lease: Lease) -> bool:
    """Returns whether the driver has noticed that it no longer holds the study."""
    return lease._lost_reason is not None


def contents(store: Store) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key) for entry in store.list("")}


def test_store_without_conditional_puts_has_one_holder_too(tmp_path: Path) -> None:
    """All eight writes succeed; a driver whose claim is overwritten reads it and gives up."""
    weak, together = WeakStore(tmp_path / "weak"), threading.Barrier(NUM_RACERS, timeout=20)

    def race(_: int) -> bool:
        together_in_put = SlowStore(weak, before_put=together.wait)
        try:
            Lease.acquire(
                together_in_put, STUDY, is_weak=True, clocks=Clocks(sleep=lambda _: together.wait())
            )
        except StudyHeldError:
            return False
        return True

    with ThreadPoolExecutor(NUM_RACERS) as threads:
        assert sum(threads.map(race, range(NUM_RACERS))) == 1


def test_racer_that_overwrites_late_is_found_out_at_the_next_heartbeat(tmp_path: Path) -> None:
    """A weak store may make two holders; one of them stops by itself."""
    weak = WeakStore(tmp_path / "weak")
    overwritten = Lease.acquire(weak, STUDY, is_weak=True, clocks=Clocks(sleep=lambda _: None))
    rival = claim_elsewhere()
    late = Lease(
        weak,
        STUDY,
        claim=rival,
        generation=1,
        is_weak=True,
    )
    weak.put(claim_key(STUDY, 1), to_json(rival))
    overwritten.beat()
    late.beat()
    assert (is_lost(overwritten), is_lost(late)) == (True, False)


def test_generation_that_is_taken_but_not_listed_is_looked_at(tmp_path: Path) -> None:
    """The put is refused, and the key is read: no endless retries, and the holder is named."""
    holder = Lease.acquire(LocalStore(tmp_path), STUDY)
    with pytest.raises(StudyHeldError, match=f"pid {holder.claim.pid}"):
        Lease.acquire(LateListing(tmp_path), STUDY)


def test_failed_heartbeat_is_made_up_for_by_the_next(failing: FailingStore) -> None:
    """A single store error does not lose the study."""
    lease = Lease.acquire(failing, STUDY)
    failing.is_failing = True
    lease.beat()
    failing.is_failing = False
    lease.beat()
    assert not is_lost(lease)
    assert find_holder(failing, STUDY) is not None


@pytest.mark.parametrize("hangs", [True, False])
def test_driver_that_cannot_beat_stops_before_a_rival_may_think_it_dead(
    failing: FailingStore, monkeypatch: pytest.MonkeyPatch, *, hangs: bool
) -> None:
    """On a weak store that fails or hangs, `on_lost` is called once, in time."""
    monkeypatch.setattr(lease_module, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(lease_module, "RELEASE_TIMEOUT_S", 0.2)
    fake, reasons = FakeTime(), list[str]()
    lease = Lease.acquire(failing, STUDY, is_weak=True, clocks=fake.clocks)
    failing.is_failing = True
    if hangs:
        failing.answers.clear()
    lease.start(reasons.append, beat_every_s=0.01)
    begun_s = fake.now_s
    fake.now_s = begun_s + SILENT_AFTER_S - 1
    time.sleep(0.1)
    assert not reasons
    fake.now_s = begun_s + SILENT_AFTER_S + 1
    wait_until(lambda: bool(reasons))
    failing.answers.set()
    lease.release()
    assert len(reasons) == 1
    assert "took no heartbeat for " in reasons[0]
    with pytest.raises(LeaseLostError, match="run the same command again"):
        lease.check()


def test_driver_rides_out_an_outage_of_a_store_that_keeps_the_first_of_two_writers(
    failing: FailingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rival can overwrite a claim there: it would be found at the next heartbeat."""
    monkeypatch.setattr(lease_module, "_LOOK_EVERY_S", 0.01)
    fake, reasons = FakeTime(), list[str]()
    lease = Lease.acquire(failing, STUDY, clocks=Clocks(monotonic=fake.clock))
    failing.is_failing = True
    lease.start(reasons.append, beat_every_s=0.01)
    fake.now_s = 100 * STALE_AFTER_S
    time.sleep(0.1)
    assert not reasons
    failing.is_failing = False
    wait_until(lambda: failing.num_requests > 100)
    lease.check()
    lease.release()


def test_release_outlasts_a_store_that_hangs(
    failing: FailingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both calls return after the limit; the study is free once the store answers."""
    monkeypatch.setattr(lease_module, "RELEASE_TIMEOUT_S", 0.1)
    lease = Lease.acquire(failing, STUDY)
    failing.answers.clear()
    lease.release()
    lease.release()
    assert find_holder(failing, STUDY) is not None
    failing.answers.set()
    wait_until(lambda: find_holder(failing, STUDY) is None)


def test_heartbeat_in_flight_does_not_overwrite_the_release(failing: FailingStore) -> None:
    """The release waits for the heartbeat, which would make the study look held."""
    lease, in_flight = Lease.acquire(failing, STUDY), threading.Event()

    def hangs(content: bytes) -> bool:
        in_flight.set()
        return b'"released": false' in content

    failing.hangs = hangs
    failing.answers.clear()
    lease.start(pytest.fail)
    assert in_flight.wait(20)
    threading.Timer(0.2, failing.answers.set).start()
    lease.release()
    wait_until(lambda: all(thread.name != "lease" for thread in threading.enumerate()))
    assert find_holder(failing, STUDY) is None


@pytest.mark.parametrize("garbage", [None, b"", b'{"token":', b"\xff\x00", b"[]", b'{"pid": 1}'])
def test_garbled_objects_cost_a_watch_and_no_crash(store: Store, garbage: bytes | None) -> None:
    """None stands for an object that vanished; the holder then has no known name."""
    Lease.acquire(store, STUDY, claim=claim_elsewhere()).beat()
    if garbage is None:
        store.delete([claim_key(STUDY, 1)])
    else:
        store.put(claim_key(STUDY, 1), garbage)
        store.put(beat_key(STUDY, 1), garbage)
    holder, fake = find_holder(store, STUDY), FakeTime()
    assert holder is not None
    assert "cannot be read" in str(holder)
    lease = Lease.acquire(store, STUDY, clocks=fake.clocks)
    assert (lease.generation, fake.now_s) == (2, STALE_AFTER_S)


def test_holder_whose_objects_vanished_keeps_the_study(store: Store) -> None:
    """A newcomer that found no trace, and began at generation 1, gives way."""
    for _ in range(2):
        Lease.acquire(store, STUDY).release()
    holder = Lease.acquire(store, STUDY)
    store.delete(list(contents(store)))
    newcomer = Lease.acquire(store, STUDY, claim=claim_elsewhere())
    assert newcomer.generation == 1
    holder.beat()
    newcomer.beat()
    assert (is_lost(holder), is_lost(newcomer)) == (False, True)
