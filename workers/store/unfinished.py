"""Temporary files and directories of this process, which may have to end without clean-up code.

A long call of torch cannot be interrupted: the thread that would run a `finally` block is inside
it. Another thread then ends the process, and calls `remove_unfinished` first.
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_lock = threading.RLock()
_paths: set[Path] = set()


@contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Deletes a file or directory at the end of the block, or when the process ends early.

    Args:
        path: It need not exist, neither now nor at the end.
    """
    with _lock:
        _paths.add(path)
    try:
        yield
    finally:
        with _lock:
            _remove(path)
            _paths.discard(path)


def remove_unfinished() -> None:
    """Deletes everything that is unfinished, for a process that ends at once.

    Afterwards, all other threads wait when they begin or end something unfinished. So no thread can
    report that a file has vanished under it, or write a new one.
    """
    _lock.acquire()
    for path in _paths:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
