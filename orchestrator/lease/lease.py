"""Acquires and keeps the lease that lets one driver at a time run a study.

The highest generation in the store holds the study, and generations only grow: a driver that was
paused and replaced finds a higher generation, and never takes itself for the holder. Wall clocks
of two machines are never compared: a waiting driver watches the holder's heartbeat change, and
measures the time by its own clock.

    LeaseError
    ├── StudyHeldError   another driver holds the study, or may hold it
    └── LeaseLostError   this driver held the study and no longer does
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from orchestrator.lease.holder import (
    Beat,
    Claim,
    Holder,
    beat_key,
    claim_key,
    find_object,
    lease_objects,
    newest_holder,
    parse_claim,
    progress_key,
    to_json,
)
from workers.store.protocol import Store, StoreError

BEAT_EVERY_S = 5.0
"""Seconds between two heartbeats."""
STALE_AFTER_S = 30.0
"""A driver counts as dead when its heartbeat has not changed for this long."""
SILENT_AFTER_S = 0.8 * STALE_AFTER_S
"""On a store that ignores conditional puts, a driver stops when it could write no heartbeat for
this long, before a rival may think it dead. Other stores let nobody overwrite a claim, so there the
driver goes on."""
SETTLE_S = 1.0
"""On a store that ignores conditional puts, drivers that race for a study may overwrite each
other's claims for this long."""
RELEASE_TIMEOUT_S = 10.0
"""The longest time that `release` waits for a store that does not answer."""

_LOOK_EVERY_S = 1.0


class LeaseError(Exception):
    """A driver may not run a study."""


class StudyHeldError(LeaseError):
    """Another driver holds the study, or may hold it; nothing was changed."""

    def __init__(self, holder: Holder, *, store_url: str) -> None:
        self.holder = holder
        super().__init__(
            f"{holder} (store {store_url}). Wait for that run or stop it. If it is certainly dead, "
            "run the same command again with --take-over"
        )


class LeaseLostError(LeaseError):
    """This driver held the study and no longer does; its committed artifacts are whole."""


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """The clocks that a lease uses; tests replace them."""

    monotonic: Callable[[], float] = time.monotonic
    """Measures how long a heartbeat has not changed."""
    wall: Callable[[], float] = time.time
    """Dates claims and heartbeats, in seconds since 1970."""
    sleep: Callable[[float], None] = time.sleep


SYSTEM_CLOCKS = Clocks()


class Lease:
    """One driver's hold on a study, from `acquire` to `release`; a context manager that releases.

    At most one driver at a time believes that it holds a study, with two exceptions. A holder that
    was paused for longer than `STALE_AFTER_S` learns of its successor at its next heartbeat or
    `check`, within seconds of waking up. And on a store that ignores conditional puts, a racing
    driver that stalls for longer than `SETTLE_S` between reading and writing is found out at the
    next heartbeat.
    """

    def __init__(
        self,
        store: Store,
        study: str,
        *,
        claim: Claim,
        generation: int,
        is_weak: bool = False,
        clocks: Clocks = SYSTEM_CLOCKS,
    ) -> None:
        self.claim = claim
        self.generation = generation
        self._store = store
        self._study = study
        self._is_weak = is_weak
        self._clocks = clocks
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._release_thread: threading.Thread | None = None
        self._on_lost: Callable[[str], None] = lambda _: None
        self._lost_reason: str | None = None
        self._num_beats = 0
        self._last_beat_s = clocks.monotonic()

    @classmethod
    def acquire(
        cls,
        store: Store,
        study: str,
        *,
        claim: Claim | None = None,
        take_over: bool = False,
        is_weak: bool = False,
        say: Callable[[str], None] = lambda _: None,
        clocks: Clocks = SYSTEM_CLOCKS,
    ) -> Self:
        """Takes a study once its last holder is gone; call `start` soon after.

        A holder on this machine is looked up by its pid, at once. A holder on another machine is
        watched until it writes a heartbeat, or until it was silent for `STALE_AFTER_S`.

        Args:
            store: The store that has the study.
            study: The study's name.
            claim: Identifies the driver; this process by default.
            take_over: Takes the study from its present holder without checking whether it lives.
            is_weak: Whether the store ignores conditional puts (see `supports_conditional_put`).
            say: Is called once if another machine's holder has to be watched, with a sentence.
            clocks: Measure and date the heartbeats.

        Raises:
            StudyHeldError: Another driver holds the study; the message names it.
            StoreError: The store failed. If a claim was written all the same, it ends with this
                process.
        """
        claim = claim or Claim.here(started_at_s=clocks.wall())
        settle = (lambda: clocks.sleep(SETTLE_S)) if is_weak else (lambda: None)
        generation = 0
        while True:
            holder = newest_holder(store, study, at_least=generation)
            if not (take_over or holder.is_gone(machine=claim.machine)):
                holder = _wait_until_gone(
                    holder, store=store, machine=claim.machine, say=say, clocks=clocks
                )
            generation = holder.generation + 1
            if _write_claim(claim, claim_key(study, generation), store=store, settle=settle):
                break
            take_over = False  # it was meant for the first holder, not for a rival that was faster
        return cls(store, study, claim=claim, generation=generation, is_weak=is_weak, clocks=clocks)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Releases the study."""
        self.release()

    def start(self, on_lost: Callable[[str], None], *, beat_every_s: float = BEAT_EVERY_S) -> None:
        """Starts to write heartbeats in a background thread; call it once.

        Args:
            on_lost: Is called once with the reason if the study is lost, from that thread.
            beat_every_s: Seconds between two heartbeats.
        """
        assert not self._threads, "started twice"
        self._on_lost = on_lost
        # Under the lock: a loss found at once may call `release`, which joins the started threads.
        with self._lock:
            loops: list[Callable[[], None]] = [lambda: self._beat_on(beat_every_s)]
            if self._is_weak:  # its own thread: a store that hangs may block a put for minutes
                loops.append(self._watch_own_silence)
            for loop in loops:
                self._threads.append(threading.Thread(target=loop, name="lease", daemon=True))
                self._threads[-1].start()

    def beat(self) -> None:
        """Writes a heartbeat unless there is a rival; after a store error the next beat retries."""
        with suppress(StoreError):
            if rival := self._rival():
                self._lose(rival)
            else:
                self._write_beat()

    def write_progress(self, progress: bytes) -> None:
        """Writes progress beside the heartbeat; after a store error the next write tries again."""
        if self._lost_reason is None:
            with suppress(StoreError):
                self._store.put(progress_key(self._study, self.generation), progress)

    def check(self) -> None:
        """Checks that this driver still holds the study.

        Raises:
            LeaseLostError: It does not; the message names the holder.
            StoreError: The store cannot be read.
        """
        if self._lost_reason is None and (rival := self._rival()):
            self._lose(rival)
        if self._lost_reason is not None:
            raise LeaseLostError(self._lost_reason)

    def release(self) -> None:
        """Ends the heartbeats and frees the study; a second call does nothing.

        Waits at most `RELEASE_TIMEOUT_S` and raises nothing. If the store does not answer, the next
        run on this machine still starts at once, and a run on another machine watches first.
        """
        self._stopping.set()
        with self._lock:
            if self._release_thread is None:
                caller = threading.current_thread()  # may be one of the threads, by `on_lost`
                others = [thread for thread in self._threads if thread is not caller]
                self._release_thread = threading.Thread(
                    target=self._write_release, args=(others,), name="lease", daemon=True
                )
                self._release_thread.start()
        self._release_thread.join(RELEASE_TIMEOUT_S)

    def _rival(self) -> str | None:
        """Returns why another driver holds the study, None if this driver does."""
        newest = newest_holder(self._store, self._study, at_least=self.generation)
        # A claim that vanished was not replaced: a rival would have a higher generation.
        is_own = newest.claim is None or newest.claim.token == self.claim.token
        if newest.generation == self.generation and is_own:
            return None
        return f"{newest}. This run was taken over and stops; everything it committed is kept"

    def _write_beat(self, *, released: bool = False) -> None:
        begun_s = self._clocks.monotonic()
        beat = Beat(
            token=self.claim.token,
            counter=self._num_beats,
            at_s=self._clocks.wall(),
            released=released,
        )
        self._store.put(beat_key(self._study, self.generation), to_json(beat))
        self._num_beats += 1
        self._last_beat_s = begun_s

    def _beat_on(self, every_s: float) -> None:
        self.beat()
        while not self._stopping.wait(every_s):
            self.beat()

    def _watch_own_silence(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            silent_s = self._clocks.monotonic() - self._last_beat_s
            if silent_s > SILENT_AFTER_S:
                self._lose(
                    f"study {self._study}: {self._store.url} took no heartbeat for {silent_s:.0f} "
                    "s, so another driver may take this one for dead, and this one stops; run the "
                    "same command again"
                )

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self._lost_reason is not None:
                return
            self._lost_reason = reason
        self._stopping.set()
        self._on_lost(reason)

    def _write_release(self, others: list[threading.Thread]) -> None:
        for thread in others:
            thread.join()  # a later heartbeat would overwrite the release
        with suppress(StoreError):
            if self._rival() is None:
                self._write_beat(released=True)
                found = lease_objects(self._store, self._study)
                old = [(n, key) for n, key in found if n < self.generation]
                progress = {progress_key(self._study, n) for n, _ in old}
                self._store.delete([*(key for _, key in old), *progress])


def _wait_until_gone(
    holder: Holder,
    *,
    store: Store,
    machine: str | None,
    say: Callable[[str], None],
    clocks: Clocks,
) -> Holder:
    """Returns the newest holder once it is gone.

    Raises:
        StudyHeldError: The holder is alive.
    """
    if holder.runs_on(machine):
        raise StudyHeldError(holder, store_url=store.url)
    say(f"{holder}. Waiting up to {STALE_AFTER_S:.0f} s for another heartbeat")
    newest, until_s = holder, clocks.monotonic() + STALE_AFTER_S
    while clocks.monotonic() < until_s:
        clocks.sleep(_LOOK_EVERY_S)
        newest = newest_holder(store, holder.study, at_least=holder.generation)
        if newest.is_gone(machine=machine):
            break
        if newest.is_alive_since(holder):
            raise StudyHeldError(newest, store_url=store.url)
    return newest


def _write_claim(claim: Claim, key: str, *, store: Store, settle: Callable[[], None]) -> bool:
    """Writes a claim; returns whether it is still there once racing drivers have settled."""
    if not store.put_if_absent(key, to_json(claim)):
        return False
    settle()
    written = parse_claim(find_object(store, key))
    return written is not None and written.token == claim.token
