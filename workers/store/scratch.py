"""Directories for files that live as long as a job's step, in the machine's temporary folder."""

import errno
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.store.machine_errors import ScratchError
from workers.store.unfinished import unfinished

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a write for which the disk, a quota or a limit of the process has no room."""


@contextmanager
def scratch_directory(purpose: str) -> Iterator[Path]:
    """Yields a new directory that only this user can read; deletes it with its content at the end.

    Args:
        purpose: A word for the directory's name, so that whoever finds it on a disk can tell.

    Raises:
        ScratchError: The temporary folder cannot be written, or the block has filled it.
    """
    try:
        name = tempfile.mkdtemp(prefix=f"mergesweep-{purpose}-")
    except OSError as error:
        raise _scratch_error(error) from error
    with unfinished(Path(name)):
        try:
            yield Path(name)
        except OSError as error:
            if error.errno in FULL:
                raise _scratch_error(error) from error
            raise


def _scratch_error(error: OSError) -> ScratchError:
    host = socket.gethostname()
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as none:
        return ScratchError(f"{host} has no temporary folder: {none.strerror}; set TMPDIR to one")
    return ScratchError(
        f"the temporary folder {folder} of {host} takes no more files: {error.strerror}; free some "
        "space there, or set TMPDIR to a folder on another disk"
    )
