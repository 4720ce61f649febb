"""The driver's lease: of two drivers on one study one runs, and the other is told which.

The highest generation holds the study, and generations only grow: a driver that was paused and
taken over finds a higher one, and never takes itself for the holder. The wall clocks of two
machines are never compared: whoever waits watches the heartbeat change, on a clock of its own.

    LeaseError
    ├── StudyHeldError   another driver holds the study, or may
    └── LeaseLostError   this driver held it, and no longer does
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
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
"""Between two heartbeats."""
STALE_AFTER_S = 30.0
"""A heartbeat that stands still for so long is that of a dead driver."""
SILENT_AFTER_S = 0.8 * STALE_AFTER_S
"""On a store that ignores conditional puts, a driver that wrote no heartbeat for so long stops,
before a rival may think it dead. On others nothing can be overwritten: it goes on."""
SETTLE_S = 1.0
"""How long racers on a store that ignores conditional puts may still overwrite each other."""
RELEASE_TIMEOUT_S = 10.0
"""How long the end of a run waits for a store that does not answer."""

_LOOK_EVERY_S = 1.0


class LeaseError(Exception):
    """A driver may not run a study."""


class StudyHeldError(LeaseError):
    """Another driver holds the study, or may; nothing was changed."""

    def __init__(self, holder: Holder, *, store_url: str) -> None:
        self.holder = holder
        super().__init__(
            f"{holder} (store {store_url}); wait for that run or stop it; "
            "if it is surely dead, run the same command again with --take-over"
        )


class LeaseLostError(LeaseError):
    """This driver held the study and no longer does; what it committed is whole."""


class Lease:
    """One driver's hold on a study, from `acquire` to `release`; a context manager, for `release`.

    Only one driver at a time is told that it holds a study, with two limits. A holder that is
    paused for longer than `STALE_AFTER_S` learns of its successor at its next heartbeat or `check`,
    within seconds of waking up. And where a store ignores conditional puts, one racer that stalls
    for longer than `SETTLE_S` between looking and writing is found out at the next heartbeat.
    """

    def __init__(
        self,
        store: Store,
        study: str,
        *,
        claim: Claim,
        generation: int,
        is_weak: bool,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.claim = claim
        self.generation = generation
        self._store = store
        self._study = study
        self._is_weak = is_weak
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._farewell: threading.Thread | None = None
        self._on_lost: Callable[[str], None] = lambda _: None
        self._lost: str | None = None
        self._num_beats = 0
        self._heard_s = clock()

    @classmethod
    def acquire(
        cls,
        store: Store,
        study: str,
        *,
        take_over: bool = False,
        is_weak: bool = False,
        claim: Claim | None = None,
        say: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Self:
        """Takes a study, after its holder was seen to be gone; call `start` soon after.

        A holder on this machine is looked up by its pid, at once. One on another machine is
        watched until it writes a heartbeat or was silent for `STALE_AFTER_S`.

        Args:
            store: Where the study is.
            study: Its name.
            take_over: Takes it from whoever holds it now, without looking.
            is_weak: The store ignores conditions of puts (see `supports_conditional_put`).
            claim: Who asks; this process by default.
            say: Is told once whom we watch and for how long, if we do.
            clock: Measures how long a heartbeat stands still.
            wall_clock: Dates what is written.
            sleep: Waits.

        Raises:
            StudyHeldError: Another driver holds the study; the message says which.
            StoreError: The store failed; a claim that it took all the same ends with this process.
        """
        claim = claim or Claim.here(started_at_s=wall_clock())
        settle = (lambda: sleep(SETTLE_S)) if is_weak else (lambda: None)
        generation = 0
        while True:
            holder = newest_holder(store, study, at_least=generation)
            if not (take_over or holder.is_gone(machine=claim.machine)):
                holder = _wait_until_gone(
                    holder, store=store, machine=claim.machine, say=say, clock=clock, sleep=sleep
                )
            generation = holder.generation + 1
            if _stands(claim, claim_key(study, generation), store=store, settle=settle):
                break
            take_over = False  # it meant the holder of then, not the rival of this moment
        return cls(
            store,
            study,
            claim=claim,
            generation=generation,
            is_weak=is_weak,
            clock=clock,
            wall_clock=wall_clock,
        )

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Releases the study."""
        self.release()

    @property
    def is_lost(self) -> bool:
        """Whether the study is no longer this driver's."""
        return self._lost is not None

    def start(self, on_lost: Callable[[str], None], *, beat_every_s: float = BEAT_EVERY_S) -> None:
        """Begins to write heartbeats in the background; call it once.

        Args:
            on_lost: Is told why, once, by a thread in the background, when the study is lost.
            beat_every_s: Between two heartbeats.
        """
        assert not self._threads, "started twice"
        self._on_lost = on_lost
        with self._lock:  # a loss seen at once may call `release`, which joins what has started
            jobs: list[Callable[[], None]] = [lambda: self._beat_on(beat_every_s)]
            if self._is_weak:  # apart, as a request to a store that hangs may take minutes
                jobs.append(self._guard)
            for run in jobs:
                self._threads.append(threading.Thread(target=run, name="lease", daemon=True))
                self._threads[-1].start()

    def beat(self) -> None:
        """Writes a heartbeat unless there is a rival; a failing store waits for the next one."""
        with suppress(StoreError):
            if rival := self._rival():
                self._lose(rival)
            else:
                self._write_beat()

    def write_progress(self, progress: bytes) -> None:
        """Writes how far the run is beside the heartbeat; a store that fails has the next."""
        if self._lost is None:
            with suppress(StoreError):
                self._store.put(progress_key(self._study, self.generation), progress)

    def check(self) -> None:
        """Returns if the study is this driver's at this moment.

        Raises:
            LeaseLostError: It is not; the message says whose it is.
            StoreError: The store cannot be read.
        """
        if self._lost is None and (rival := self._rival()):
            self._lose(rival)
        if self._lost is not None:
            raise LeaseLostError(self._lost)

    def release(self) -> None:
        """Gives the study up and ends the heartbeat; a second call does nothing.

        Waits `RELEASE_TIMEOUT_S` at most and raises nothing. If the store did not answer, the next
        run on this machine starts at once all the same, and one on another machine watches first.
        """
        self._stopping.set()
        with self._lock:
            if self._farewell is None:
                caller = threading.current_thread()  # `on_lost` may call this
                before = [thread for thread in self._threads if thread is not caller]
                self._farewell = threading.Thread(
                    target=self._take_leave, args=(before,), name="lease", daemon=True
                )
                self._farewell.start()
        self._farewell.join(RELEASE_TIMEOUT_S)

    def _rival(self) -> str | None:
        """Returns why the study is another's, None if it is not."""
        newest = newest_holder(self._store, self._study, at_least=self.generation)
        # A claim that vanished is no rival's: that one's generation would be higher.
        is_own = newest.claim is None or newest.claim.token == self.claim.token
        if newest.generation == self.generation and is_own:
            return None
        return f"{newest}; this run was taken over and stops; what it committed is kept"

    def _write_beat(self, *, released: bool = False) -> None:
        begun_s = self._clock()
        beat = Beat(
            token=self.claim.token,
            counter=self._num_beats,
            at_s=self._wall_clock(),
            released=released,
        )
        self._store.put(beat_key(self._study, self.generation), to_json(beat))
        self._num_beats += 1
        self._heard_s = begun_s

    def _beat_on(self, every_s: float) -> None:
        self.beat()
        while not self._stopping.wait(every_s):
            self.beat()

    def _guard(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            silent_s = self._clock() - self._heard_s
            if silent_s > SILENT_AFTER_S:
                self._lose(
                    f"study {self._study}: {self._store.url} took no heartbeat for {silent_s:.0f} "
                    "s, so this driver may be thought dead and stops; run the same command again"
                )

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self._lost is not None:
                return
            self._lost = reason
        self._stopping.set()
        self._on_lost(reason)

    def _take_leave(self, before: list[threading.Thread]) -> None:
        for thread in before:
            thread.join()  # no heartbeat after the last
        with suppress(StoreError):
            if self._rival() is None:
                self._write_beat(released=True)
                found = lease_objects(self._store, self._study)
                old = [(n, key) for n, key in found if n < self.generation]
                left = {progress_key(self._study, n) for n, _ in old}
                self._store.delete([*(key for _, key in old), *left])


def _wait_until_gone(
    holder: Holder,
    *,
    store: Store,
    machine: str | None,
    say: Callable[[str], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Holder:
    """Returns the newest holder once it is gone; raises `StudyHeldError` once it is seen alive."""
    if holder.runs_on(machine):
        raise StudyHeldError(holder, store_url=store.url)
    say(f"{holder}; watching whether another one comes, for up to {STALE_AFTER_S:.0f} s")
    now, until_s = holder, clock() + STALE_AFTER_S
    while clock() < until_s:
        sleep(_LOOK_EVERY_S)
        now = newest_holder(store, holder.study, at_least=holder.generation)
        if now.is_gone(machine=machine):
            break
        if now.is_alive_since(holder):
            raise StudyHeldError(now, store_url=store.url)
    return now


def _stands(claim: Claim, key: str, *, store: Store, settle: Callable[[], None]) -> bool:
    """Writes a claim; returns whether it is the one that stands once racers have settled."""
    if not store.put_if_absent(key, to_json(claim)):
        return False
    settle()
    standing = parse_claim(find_object(store, key))
    return standing is not None and standing.token == claim.token
