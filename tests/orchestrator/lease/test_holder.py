import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.lease.holder import (
    Beat,
    Claim,
    Holder,
    beat_key,
    claim_key,
    find_holder,
    newest_holder,
    parse_claim,
    this_machine,
    to_json,
)
from workers.store.opening import open_store
from workers.store.protocol import Store

STUDY = "small"


@pytest.fixture
def directory(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def claim() -> Claim:
    return Claim.here(started_at_s=1_780_000_000.0)


def last_beat(claim: Claim, *, released: bool = False) -> Beat:
    return Beat(token=claim.token, counter=3, at_s=1_780_000_060.0, released=released)


def holder(claim: Claim | None, *, beat: Beat | None = None) -> Holder:
    return Holder(study=STUDY, generation=2, claim=claim, beat=beat)


def test_claim_is_read_back_as_written(claim: Claim) -> None:
    """Every field survives the way through JSON."""
    assert parse_claim(to_json(claim)) == claim


def test_two_claims_of_one_process_differ(claim: Claim) -> None:
    """Each claim has its own random token."""
    assert claim.token != Claim.here(started_at_s=claim.started_at_s).token


def test_claim_of_another_release_is_read(claim: Claim) -> None:
    """A field that this release does not know is ignored."""
    content = json.dumps({**asdict(claim), "zone": "b"}).encode()
    assert parse_claim(content) == claim


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 0},
        {"pid": -1},
        {"pid": True},
        {"pid": "1"},
        {"host": "a\x1b[2Jb"},
        {"machine": 3},
        {"started_at_s": None},
    ],
    ids=str,
)
def test_unusable_claim_is_none(claim: Claim, change: dict[str, Any]) -> None:
    """Impossible pids, wrong types and control characters make a claim unusable."""
    assert parse_claim(json.dumps({**asdict(claim), **change}).encode()) is None


def test_own_process_is_alive(claim: Claim) -> None:
    """A claim of the test's own process is alive."""
    assert not claim.is_dead_here()


def test_ended_process_is_dead(claim: Claim) -> None:
    """No process has its pid any more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert replace(claim, pid=process.pid).is_dead_here()


def test_pid_that_was_used_again_is_another_process(claim: Claim) -> None:
    """A process with the pid exists, but it began at another time than the claim says."""
    assert claim.process_started is not None
    assert replace(claim, process_started=claim.process_started - 1).is_dead_here()


def test_process_whose_start_is_unknown_counts_as_alive(claim: Claim) -> None:
    """The pid exists, and nothing says that it belongs to another process."""
    assert not replace(claim, process_started=None).is_dead_here()


def test_process_of_another_user_is_alive(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that is not permitted has found a process."""

    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not claim.is_dead_here()


def test_pid_beyond_all_pids_is_dead(claim: Claim) -> None:
    """A number too large for the system raises nothing."""
    assert replace(claim, pid=1 << 80).is_dead_here()


def test_dead_process_is_not_gone_for_another_machine(claim: Claim) -> None:
    """On another machine the pid means another process."""
    dead = holder(replace(claim, pid=1 << 80))
    assert dead.is_gone(machine=this_machine())
    assert not dead.is_gone(machine="another pid:[1]")


def test_unknown_machines_are_not_the_same(claim: Claim) -> None:
    """Two machines without a known identity do not trust each other's pids."""
    assert not holder(replace(claim, pid=1 << 80, machine=None)).is_gone(machine=None)


def test_release_of_another_claim_releases_nothing(claim: Claim) -> None:
    """A release with another token comes from a racing driver that lost."""
    other = Claim.here(started_at_s=0.0)
    assert holder(claim, beat=last_beat(claim, released=True)).is_gone(machine=None)
    assert not holder(claim, beat=last_beat(other, released=True)).is_gone(machine=None)


def test_holder_as_text_has_user_start_and_last_heartbeat(claim: Claim) -> None:
    """The text is one line, with times in UTC."""
    known = replace(claim, user="alice", host="node3", pid=4711)
    assert str(holder(known, beat=last_beat(known))) == (
        "study small is held by alice@node3, pid 4711 since 2026-05-28 20:26:40 UTC; "
        "its last heartbeat: 2026-05-28 20:27:40 UTC"
    )


@pytest.mark.parametrize("at_s", [float("nan"), float("inf"), 1e300])
def test_impossible_time_is_named_as_one(claim: Claim, at_s: float) -> None:
    """JSON may hold NaN and infinity; the message is made all the same."""
    content = to_json(replace(claim, started_at_s=at_s))
    assert "since an impossible time" in str(holder(parse_claim(content)))


def test_holder_of_a_study_is_found(directory: Store, claim: Claim) -> None:
    """Claim and heartbeat are read back as they were written."""
    directory.put(claim_key(STUDY, 2), to_json(claim))
    directory.put(beat_key(STUDY, 2), to_json(last_beat(claim)))
    assert find_holder(directory, STUDY) == holder(claim, beat=last_beat(claim))


def test_study_that_nobody_held_has_no_holder(directory: Store, claim: Claim) -> None:
    """Leases of other studies and other files of the study do not count."""
    directory.put(claim_key("other", 1), to_json(claim))
    directory.put(f"studies/{STUDY}/lease-notes.json", to_json(claim))
    assert find_holder(directory, STUDY) is None


def test_dead_holder_of_this_machine_is_no_holder(directory: Store, claim: Claim) -> None:
    """A holder that released the study is none either."""
    directory.put(claim_key(STUDY, 1), to_json(replace(claim, pid=1 << 80)))
    assert find_holder(directory, STUDY) is None
    directory.put(claim_key(STUDY, 2), to_json(claim))
    directory.put(beat_key(STUDY, 2), to_json(last_beat(claim, released=True)))
    assert find_holder(directory, STUDY) is None


def test_generation_is_known_from_a_heartbeat_alone(directory: Store, claim: Claim) -> None:
    """If the claim vanished, its generation is still not given to another driver."""
    directory.put(claim_key(STUDY, 1), to_json(claim))
    directory.put(beat_key(STUDY, 2), to_json(last_beat(claim)))
    assert newest_holder(directory, STUDY).generation == 2
