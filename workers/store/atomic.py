"""Files that appear whole: written beside their final name, then renamed."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


def is_temporary(name: str) -> bool:
    """Returns whether a file of this name is one of `temporary_beside`."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yields a fresh name in the directory of `path`, made if it is missing; removes it afterwards.

    Beside, because a rename or link is atomic only inside one file system. The name begins with a
    dot, which no key does. Random, because hosts that share a directory may share process ids.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a name to write to; what was written there takes the place of `path` at the end.

    If the block raises, `path` is as it was.
    """
    with temporary_beside(path) as temporary:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)  # noqa: PTH105 the pair of os.link, which has no Path method
        _sync(path.parent)


def link_if_absent(temporary: Path, path: Path) -> bool:
    """Gives a written file its final name unless that is taken; returns whether it did."""
    _sync(temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        # Over NFS an answer can be lost and the request repeated: two links mean that it was ours.
        return temporary.stat().st_nlink > 1
    _sync(path.parent)
    return True


def _sync(path: Path) -> None:
    """Makes a file's content, or a directory's names, outlive a power cut (0.1 ms on an SSD)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
