"""Directories for files that live as long as a job's step, in the user's temporary directory.

A process that is killed cannot delete its directory. Each directory is therefore locked while it is
in use, and whoever creates the next one deletes those that nobody has locked.
"""

import errno
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from workers.store.machine_errors import ScratchError
from workers.store.private_directory import private_directory, user_directory
from workers.store.unfinished import unfinished

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a write for which the disk, a quota or a limit of the process has no room."""
_REMEDY = "set TMPDIR to a directory of your own"


@contextmanager
def scratch_directory(purpose: str) -> Iterator[Path]:
    """Yields a new directory that only this user can read; deletes it with its content at the end.

    Args:
        purpose: A word for the directory's name, so that whoever finds it on a disk can tell.

    Raises:
        ScratchError: The temporary folder cannot be written, or the block has filled it.
        NotPrivateError: The user's directory in the temporary folder is another user's.
    """
    folder = private_directory(user_directory() / "scratch", remedy=_REMEDY)
    with ExitStack() as held:
        try:
            with _locked(folder):
                _delete_abandoned(folder)
                path = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=folder))
                held.enter_context(_locked(path))
        except OSError as error:
            raise _scratch_error(error, folder=folder) from error
        held.enter_context(unfinished(path))
        try:
            yield path
        except OSError as error:
            if error.errno in FULL:
                raise _scratch_error(error, folder=folder) from error
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks a directory until the block or the process ends, where the file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _delete_abandoned(folder: Path) -> None:
    for path in folder.iterdir():
        if _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    """Returns whether the process that created a directory has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _scratch_error(error: OSError, *, folder: Path) -> ScratchError:
    return ScratchError(
        f"the temporary folder {folder} of {socket.gethostname()} takes no more files: "
        f"{error.strerror}; free some space there, or set TMPDIR to a folder on another disk"
    )
