"""What only a directory has: faults of the disk, and racers fast enough to meet."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from workers.store.opening import open_store
from workers.store.protocol import (
    StoreError,
    StoreFullError,
    StoreNotWritableError,
    StoreUnavailableError,
)


def test_each_of_many_races_has_one_winner(tmp_path: Path) -> None:
    """Looking first and writing then would have two winners in some of these races."""
    store = open_store(str(tmp_path))
    start = threading.Barrier(8)

    def race(racer: int) -> list[bool]:
        won = []
        for i in range(200):
            start.wait()
            won.append(store.put_if_absent(f"race/{i}", b"%d" % racer))
        return won

    with ThreadPoolExecutor(8) as threads:
        wins = list(zip(*threads.map(race, range(8)), strict=True))
    assert [won.count(True) for won in wins] == [1] * 200
    assert [store.get(f"race/{i}") for i in range(200)] == [b"%d" % w.index(True) for w in wins]


@pytest.mark.parametrize(
    ("code", "error_type", "remedy"),
    [
        (errno.ENOSPC, StoreFullError, "free some space"),
        (errno.EDQUOT, StoreFullError, "free some space"),
        (errno.EACCES, StoreNotWritableError, "this user may write"),
        (errno.EROFS, StoreNotWritableError, "this user may write"),
        (errno.EIO, StoreUnavailableError, "check the disk"),
    ],
)
def test_fault_of_the_disk_is_reported_with_its_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error_type: type[StoreError],
    remedy: str,
) -> None:
    """A write that the system refuses says what to do, and leaves nothing visible."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    store = open_store(str(tmp_path))
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(error_type, match=remedy):
        store.put("key", b"content")
    assert list(store.list("")) == []
    assert list(tmp_path.iterdir()) == []
