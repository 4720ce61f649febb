"""Properties of local stores only: disk faults, and many races in a short time."""

import errno
import os
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
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
    """A store that checks first and writes later would have two winners in some races."""
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
def test_disk_fault_is_reported_with_its_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error_type: type[StoreError],
    remedy: str,
) -> None:
    """The error of a refused write says what to do, and no file remains."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    store = open_store(str(tmp_path))
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(error_type, match=remedy):
        store.put("key", b"content")
    assert list(store.list("")) == []
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mounts a file system of 1 MB; skips if this user may not mount."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_full_disk_harms_nothing_that_was_written(small_disk: Path, tmp_path: Path) -> None:
    """Each write raises `StoreFullError`, and leaves neither an object nor a temporary file."""
    store = open_store(str(small_disk))
    store.put("artifacts/whole", b"w" * 400_000)
    large = tmp_path / "large"
    large.write_bytes(b"l" * 900_000)
    for write in [
        lambda: store.upload("artifacts/new/weights", large),
        lambda: store.upload("artifacts/whole", large),
        lambda: store.put("artifacts/new/weights", large.read_bytes()),
        lambda: store.put_if_absent("artifacts/new/manifest", large.read_bytes()),
    ]:
        with pytest.raises(StoreFullError, match="free some space"):
            write()
        files = [path for path in small_disk.rglob("*") if path.is_file()]
        assert files == [small_disk / "artifacts" / "whole"]
        assert store.get("artifacts/whole") == b"w" * 400_000
    store.delete(["artifacts/whole"])
    store.upload("artifacts/new/weights", large)


def test_full_disk_stops_no_reader_and_no_deletion(small_disk: Path, tmp_path: Path) -> None:
    """A store on a full disk can be read, and deleting objects frees space."""
    store = open_store(str(small_disk))
    with pytest.raises(StoreFullError):
        deque(store.put(f"k/{i:03}", b"x" * 4096) for i in range(300))
    keys = [entry.key for entry in store.list("")]
    store.download(keys[-1], tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"x" * 4096
    store.delete(keys)
    assert list(store.list("")) == []
