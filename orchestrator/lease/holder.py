"""Who holds a study, as its store tells: claims by generation, and the heartbeat of each.

    studies/<name>/lease-00000007.json   the claim of generation 7, created once
    studies/<name>/beat-00000007.json    its heartbeat, which only the one who made the claim writes
    studies/<name>/progress-00000007.json  how far its run is, for whoever watches

What is missing or garbled reads as None, never as an error: a damaged object must not keep a study
from being run. Nothing of a process's environment or command line is written.
"""

import json
import os
import pwd
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any

from workers.artifacts.code_version import code_version
from workers.artifacts.layout import Layout
from workers.store.protocol import NotFoundError, Store

_LEASE, _BEAT = "lease", "beat"
_NAME = re.compile(rf"(?:{_LEASE}|{_BEAT})-(\d{{8,}})\.json")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Which process took a study, and when; nothing of its environment or command line."""

    token: str
    """Random: tells this claim from any other."""
    host: str
    """The machine's name, for people."""
    pid: int
    """The process, as its own pid namespace numbers it."""
    user: str
    """The name of the user, for people."""
    started_at_s: float
    """When it asked for the study, in seconds since 1970 by its own clock."""
    machine: str | None
    """Boot id and pid namespace, inside which a pid means one process; None where unknown."""
    process_started: int | None
    """When the process began, in clock ticks after boot: pids are used again; None if unknown."""
    code_version: str
    """The version of mergesweep that it runs."""

    @staticmethod
    def here(*, started_at_s: float) -> "Claim":
        """Returns a new claim of this process."""
        state = _process_state(os.getpid())
        return Claim(
            token=secrets.token_hex(16),
            host=socket.gethostname(),
            pid=os.getpid(),
            user=_user_name(),
            started_at_s=started_at_s,
            machine=this_machine(),
            process_started=state and state[1],
            code_version=code_version(),
        )

    def runs_on(self, machine: str | None) -> bool:
        """Returns whether the process is looked up by its pid on a machine."""
        return self.machine is not None and self.machine == machine

    def is_dead_here(self) -> bool:
        """Returns whether the process has ended; only its own machine can tell."""
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass  # another user's, and there
        state = _process_state(self.pid)
        if state is None:
            return False
        # Killed, but its parent has not asked for its exit code: containers often never do.
        is_defunct = state[0] in "ZX"
        return is_defunct or self.process_started not in {None, state[1]}


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A holder's last word."""

    token: str
    """The claim that it belongs to."""
    counter: int
    """Grows by one with every heartbeat."""
    at_s: float
    """When it was written, in seconds since 1970 by its writer's clock."""
    released: bool
    """Whether it was the last: the study is free."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The highest generation of a study's leases, as it stands in the store."""

    study: str
    """The study's name."""
    generation: int
    """Counts the holders from 1; 0 while nobody ever held the study."""
    claim: Claim | None
    """Who it is; None if the object is missing or garbled."""
    beat: Beat | None
    """Its last heartbeat; None if the object is missing or garbled."""

    def __str__(self) -> str:
        """Returns who holds the study, since when and when it was last heard of."""
        since = "" if self.claim is None else f" since {_utc(self.claim.started_at_s)}"
        heard = "none" if self.beat is None else _utc(self.beat.at_s)
        return f"study {self.study} is held by {self.who}{since}; its last heartbeat: {heard}"

    @property
    def who(self) -> str:
        """Returns which process it is, for people."""
        if self.claim is None:
            return "a driver whose claim cannot be read"
        return f"{self.claim.user}@{self.claim.host}, pid {self.claim.pid}"

    def is_gone(self, *, machine: str | None) -> bool:
        """Returns whether a look from a machine makes it certain that nobody holds the study."""
        if self.generation == 0 or self._is_released():
            return True
        return self.runs_on(machine) and self.claim is not None and self.claim.is_dead_here()

    def runs_on(self, machine: str | None) -> bool:
        """Returns whether the holder is known to be, or to have been, a process of a machine."""
        return self.claim is not None and self.claim.runs_on(machine)

    def is_alive_since(self, earlier: "Holder") -> bool:
        """Returns whether a holder wrote anything since an earlier look."""
        is_new_beat = self.beat is not None and self.beat != earlier.beat
        return self.generation > earlier.generation or is_new_beat

    def _is_released(self) -> bool:
        if self.beat is None or not self.beat.released:
            return False
        # Where conditional puts are ignored, the loser's last word must not end the winner's lease.
        return self.claim is None or self.claim.token == self.beat.token


def find_holder(store: Store, study: str) -> Holder | None:
    """Returns who holds a study, without waiting; on another machine it may be dead.

    Returns:
        None if nobody ever held it, if it was released, or if its holder died on this machine.

    Raises:
        StoreError: The store cannot be read.
    """
    holder = newest_holder(store, study)
    return None if holder.is_gone(machine=this_machine()) else holder


def newest_holder(store: Store, study: str, *, at_least: int = 0) -> Holder:
    """Returns the highest generation, with its claim and heartbeat as they are now.

    Args:
        store: Where the study is.
        study: Its name.
        at_least: A generation known to be taken, where a listing may be late or objects vanished.

    Raises:
        StoreError: The store cannot be read.
    """
    generation = max((n for n, _ in lease_objects(store, study)), default=0)
    generation = max(generation, at_least)
    return Holder(
        study=study,
        generation=generation,
        claim=parse_claim(find_object(store, claim_key(study, generation))),
        beat=_parse_beat(find_object(store, beat_key(study, generation))),
    )


def lease_objects(store: Store, study: str) -> Iterator[tuple[int, str]]:
    """Yields generation and key of every claim and heartbeat of a study.

    Raises:
        StoreError: The store cannot be listed.
    """
    for kind in (_LEASE, _BEAT):
        for entry in store.list(Layout.study(study, f"{kind}-")):
            if name := _NAME.fullmatch(entry.key.rpartition("/")[2]):
                yield int(name[1]), entry.key


def find_object(store: Store, key: str) -> bytes | None:
    """Returns an object's content, None if it is not there.

    Raises:
        StoreError: The store cannot be read.
    """
    try:
        return store.get(key)
    except NotFoundError:
        return None


def claim_key(study: str, generation: int) -> str:
    """Returns where a generation's claim lies."""
    return Layout.study(study, f"{_LEASE}-{generation:08d}.json")


def beat_key(study: str, generation: int) -> str:
    """Returns where a generation's heartbeat lies."""
    return Layout.study(study, f"{_BEAT}-{generation:08d}.json")


def progress_key(study: str, generation: int) -> str:
    """Returns where a generation leaves how far its run is."""
    return Layout.study(study, f"progress-{generation:08d}.json")


def to_json(written: Claim | Beat) -> bytes:
    """Returns the bytes that are stored."""
    return (json.dumps(asdict(written), sort_keys=True, indent=1) + "\n").encode()


def parse_claim(content: bytes | None) -> Claim | None:
    """Returns the claim that the bytes say, None if they say none."""
    fields = _parse(content, types=_CLAIM_TYPES)
    return Claim(**fields) if fields and fields["pid"] > 0 else None


def _parse_beat(content: bytes | None) -> Beat | None:
    fields = _parse(content, types=_BEAT_TYPES)
    return Beat(**fields) if fields else None


# What JSON parses into.
_CLAIM_TYPES: dict[str, tuple[type, ...]] = {
    "token": (str,),
    "host": (str,),
    "pid": (int,),
    "user": (str,),
    "started_at_s": (float, int),
    "machine": (str, NoneType),
    "process_started": (int, NoneType),
    "code_version": (str,),
}
_BEAT_TYPES: dict[str, tuple[type, ...]] = {
    "token": (str,),
    "counter": (int,),
    "at_s": (float, int),
    "released": (bool,),
}


def _parse(
    content: bytes | None, *, types: Mapping[str, tuple[type, ...]]
) -> dict[str, Any] | None:
    try:
        parsed = json.loads(content or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict) or not types.keys() <= parsed.keys():
        return None
    fields = {name: parsed[name] for name in types}
    # Exact, as a bool is an int to isinstance; and what is shown must not steer a terminal.
    is_usable = all(
        type(value) in types[name] and (not isinstance(value, str) or value.isprintable())
        for name, value in fields.items()
    )
    return fields if is_usable else None


def _utc(at_s: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "an impossible time"


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's made-up user
        return f"uid {os.getuid()}"


def this_machine() -> str | None:
    """Returns what tells this machine and pid namespace from all others, None where unknown."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot_id} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _process_state(pid: int) -> tuple[str, int] | None:
    """Returns state and start of a process from Linux's books, None if they do not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
        fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
