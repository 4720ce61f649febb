"""Atomic writes to a directory: a file is written under a temporary name and then renamed."""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workers.store.unfinished import unfinished

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


def is_temporary(name: str) -> bool:
    """Returns whether a file name is a temporary name from this module."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yields an unused name in the directory of `path`; deletes the file of that name at the end.

    Creates the directory if necessary. The name is in the same directory because renames and links
    are atomic only inside one file system. It begins with a dot, as no key does. It is random
    because hosts that share a directory may have equal process ids.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with unfinished(temporary):
        yield temporary


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name to write to, and renames the file to `path` at the end.

    If the block raises, `path` is unchanged. A file that is replaced keeps its mode, and its owner
    and group where this user may give files to them.
    """
    with temporary_beside(path) as temporary:
        yield temporary
        _take_over_mode(temporary, path)
        _sync(temporary)
        os.replace(temporary, path)  # noqa: PTH105 the pair of os.link, which has no Path method
        _sync(path.parent)


def _take_over_mode(temporary: Path, path: Path) -> None:
    try:
        before = path.stat()
    except FileNotFoundError:
        return
    with suppress(PermissionError):
        os.chown(temporary, before.st_uid, before.st_gid)
    temporary.chmod(stat.S_IMODE(before.st_mode))  # after the owner, whose change resets some bits


def link_if_absent(temporary: Path, path: Path) -> bool:
    """Gives a written file its final name if no file has the name; returns whether it did."""
    _sync(temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS may lose an answer and repeat the request. A second link to the file then means that
        # the first request succeeded.
        return temporary.stat().st_nlink > 1
    _sync(path.parent)
    return True


def _sync(path: Path) -> None:
    """Flushes a file or directory to the disk, so that it survives a power cut (0.1 ms on SSD)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
