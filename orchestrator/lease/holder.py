"""Reads from the store which driver holds a study: claims by generation, each with a heartbeat.

    studies/<name>/lease-00000007.json     the claim of generation 7, created once
    studies/<name>/beat-00000007.json      its heartbeat, written only by the driver with the claim
    studies/<name>/progress-00000007.json  the progress of its run, for `status` and `watch`

A missing or garbled object reads as None and never as an error: a damaged object must not keep a
study from being run. No environment variable and no command line of a process is written.
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
LEASE_FILE_PREFIXES = (f"{_LEASE}-", f"{_BEAT}-")
"""The beginnings of the file names of claims and heartbeats in a study's folder."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The process that took a study; has nothing of its environment or command line."""

    token: str
    """Random, so that no two claims are equal."""
    host: str
    """The machine's name, for messages."""
    pid: int
    """The process id, in the process's own pid namespace."""
    user: str
    """The user's name, for messages."""
    started_at_s: float
    """The time at which the process asked for the study, in seconds since 1970 by its own clock."""
    machine: str | None
    """Boot id and pid namespace, inside which a pid means one process; None where unknown."""
    process_started: int | None
    """The start of the process in clock ticks after boot, as pids are reused; None if unknown."""
    code_version: str
    """The process's version of mergesweep."""

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
        """Returns whether the process runs, or ran, on a machine."""
        return self.machine is not None and self.machine == machine

    def is_dead_here(self) -> bool:
        """Returns whether the process has ended; call it only on the process's own machine."""
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass  # the process exists and belongs to another user
        state = _process_state(self.pid)
        if state is None:
            return False
        # A zombie was killed, but its parent has not read its exit code; in containers it often
        # never does.
        is_defunct = state[0] in "ZX"
        return is_defunct or self.process_started not in {None, state[1]}


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A holder's last heartbeat."""

    token: str
    """The token of the holder's claim."""
    counter: int
    """Grows by one with every heartbeat."""
    at_s: float
    """The time of writing, in seconds since 1970 by the holder's clock."""
    released: bool
    """Whether the holder has ended and the study is free."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The newest generation of a study's claims, as read from the store."""

    study: str
    """The study's name."""
    generation: int
    """The number of the holder, from 1; 0 if nobody ever held the study."""
    claim: Claim | None
    """The holder's claim; None if the object is missing or garbled."""
    beat: Beat | None
    """The holder's last heartbeat; None if the object is missing or garbled."""

    def __str__(self) -> str:
        """Returns a sentence with the holder, its start and the time of its last heartbeat."""
        since = "" if self.claim is None else f" since {_utc(self.claim.started_at_s)}"
        heard = "none" if self.beat is None else _utc(self.beat.at_s)
        return f"study {self.study} is held by {self.who}{since}; its last heartbeat: {heard}"

    @property
    def who(self) -> str:
        """Returns user, machine and pid of the holder, for messages."""
        if self.claim is None:
            return "a driver whose claim cannot be read"
        return f"{self.claim.user}@{self.claim.host}, pid {self.claim.pid}"

    def is_gone(self, *, machine: str | None) -> bool:
        """Returns whether it is certain, as seen from a machine, that nobody holds the study."""
        if self.generation == 0 or self._is_released():
            return True
        return self.runs_on(machine) and self.claim is not None and self.claim.is_dead_here()

    def runs_on(self, machine: str | None) -> bool:
        """Returns whether the holder is known to be, or to have been, a process of a machine."""
        return self.claim is not None and self.claim.runs_on(machine)

    def is_alive_since(self, earlier: "Holder") -> bool:
        """Returns whether a holder wrote anything since an earlier reading of the study."""
        is_new_beat = self.beat is not None and self.beat != earlier.beat
        return self.generation > earlier.generation or is_new_beat

    def _is_released(self) -> bool:
        if self.beat is None or not self.beat.released:
            return False
        # Where conditional puts are ignored, a loser's release must not end the winner's lease.
        return self.claim is None or self.claim.token == self.beat.token


def find_holder(store: Store, study: str) -> Holder | None:
    """Returns the holder of a study without waiting; a holder on another machine may be dead.

    Returns:
        None if nobody ever held the study, if it was released, or if its holder died on this
        machine.

    Raises:
        StoreError: The store cannot be read.
    """
    holder = newest_holder(store, study)
    return None if holder.is_gone(machine=this_machine()) else holder


def newest_holder(store: Store, study: str, *, at_least: int = 0) -> Holder:
    """Returns the highest generation with its present claim and heartbeat.

    Args:
        store: The store that has the study.
        study: The study's name.
        at_least: A generation known to be taken: a listing may be late, and objects may vanish.

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
    """Yields the generation and the key of every claim and heartbeat of a study.

    Raises:
        StoreError: The store cannot be listed.
    """
    for kind in (_LEASE, _BEAT):
        for entry in store.list(Layout.study(study, f"{kind}-")):
            key = Layout.parse_study_key(entry.key)
            if key is not None and (name := _NAME.fullmatch(key.name)):
                yield int(name[1]), entry.key


def find_object(store: Store, key: str) -> bytes | None:
    """Returns an object's content, None if there is no such object.

    Raises:
        StoreError: The store cannot be read.
    """
    try:
        return store.get(key)
    except NotFoundError:
        return None


def claim_key(study: str, generation: int) -> str:
    """Returns the key of a generation's claim."""
    return Layout.study(study, f"{_LEASE}-{generation:08d}.json")


def beat_key(study: str, generation: int) -> str:
    """Returns the key of a generation's heartbeat."""
    return Layout.study(study, f"{_BEAT}-{generation:08d}.json")


def progress_key(study: str, generation: int) -> str:
    """Returns the key of the progress of a generation's run."""
    return Layout.study(study, f"progress-{generation:08d}.json")


def to_json(written: Claim | Beat) -> bytes:
    """Returns a claim or a heartbeat as JSON."""
    return (json.dumps(asdict(written), sort_keys=True, indent=1) + "\n").encode()


def parse_claim(content: bytes | None) -> Claim | None:
    """Returns the claim in an object's content, None if the content is missing or no claim."""
    fields = _parse(content, types=_CLAIM_TYPES)
    return Claim(**fields) if fields and fields["pid"] > 0 else None


def _parse_beat(content: bytes | None) -> Beat | None:
    fields = _parse(content, types=_BEAT_TYPES)
    return Beat(**fields) if fields else None


# The types into which JSON parses each field.
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
    # Exact types: isinstance takes a bool for an int. Printable texts: they go to terminals.
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
    except KeyError:  # a container's user id without a name
        return f"uid {os.getuid()}"


def this_machine() -> str | None:
    """Returns boot id and pid namespace, which identify this machine; None where unknown."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot_id} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _process_state(pid: int) -> tuple[str, int] | None:
    """Returns a process's state letter and start from /proc, None if they cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
        fields = stat.rpartition(")")[2].split()  # a process's name may hold parentheses
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
