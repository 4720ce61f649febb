"""Files that a user names, such as the output of `merge` or `report`.

Everything that can be known is checked before the work whose result the file is to hold. The file
is then written under a temporary name in the same folder, so an old file stays whole until the new
one is.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from workers.store.atomic import replacing, temporary_beside
from workers.store.scratch import FULL


class OutputError(Exception):
    """A file cannot be written where the user wants it; the message is one sentence."""


def check_output(path: Path, *, num_bytes: int = 0) -> None:
    """Raises if an output cannot be written, as far as this can be known before it is.

    Creates and deletes an empty file in the same folder: on network mounts, and for root,
    permission bits do not tell.

    Args:
        path: The file, which may exist, or a device or a pipe.
        num_bytes: The file's size; 0 if it is not known yet.

    Raises:
        OutputError: The folder does not exist or cannot be written, the name is too long or names
            a folder, or the disk has too little space.
    """
    if _is_stream(path):
        return
    target = _target(path)
    try:
        with temporary_beside(target) as temporary:
            temporary.touch()
        free_bytes = _free_bytes(target.parent)
    except OSError as error:
        raise _output_error(error, path=path) from error
    if num_bytes > free_bytes:
        raise OutputError(
            f"{path} cannot be written: it needs {num_bytes / 1e6:,.1f} MB, and the disk has "
            f"{free_bytes / 1e6:,.1f} MB free; free some space or choose another folder"
        )


@contextmanager
def output_file(path: Path, *, num_bytes: int = 0) -> Iterator[BinaryIO]:
    """Yields a file to write, which gets its name when the block ends without an error.

    The umask decides the mode of a new file. A file that exists is replaced and keeps its mode; if
    it is a link, the link stays and the file that it leads to is replaced.

    Args:
        path: The file.
        num_bytes: The file's size; 0 if it is not known yet.

    Raises:
        OutputError: As in `check_output`, the path is a device or a pipe, or a write in the block
            fails.
    """
    check_output(path, num_bytes=num_bytes)
    target = _target(path)
    try:
        with replacing(target) as temporary, temporary.open("xb") as file:
            yield file
            file.flush()
    except OSError as error:
        raise _output_error(error, path=path) from error


def write_output(path: Path, content: bytes) -> None:
    """Writes a whole file; a device or a pipe, such as `/dev/stdout`, is written to directly.

    Raises:
        OutputError: The file cannot be written.
    """
    if _is_stream(path):
        try:
            path.write_bytes(content)
        except OSError as error:
            raise _output_error(error, path=path) from error
        return
    with output_file(path, num_bytes=len(content)) as file:
        file.write(content)


def _target(path: Path) -> Path:
    """Returns the file that a path leads to, after the checks that need no writing."""
    try:
        target = path.resolve()
        found = target.stat() if target.exists() else None
        if found is not None and not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "a device or a pipe"
            raise OutputError(f"{path} cannot be written: it is {what}; name a file")
        if not target.parent.is_dir():
            state = "is a file" if target.parent.exists() else "does not exist"
            raise OutputError(
                f"{path} cannot be written: the folder {target.parent} {state}; "
                "create the folder first, or choose another one"
            )
        if found is not None:
            _check_replaceable(target, found)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise _output_error(error, path=path) from error
    return target


def _check_replaceable(target: Path, found: os.stat_result) -> None:
    """Raises if the folder's sticky bit keeps this user from replacing a file, as in `/tmp`."""
    folder, user = target.parent.stat(), os.geteuid()
    if folder.st_mode & stat.S_ISVTX and user not in {0, found.st_uid, folder.st_uid}:
        raise PermissionError(errno.EPERM, f"the file belongs to user {found.st_uid}")


def _is_stream(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _free_bytes(folder: Path) -> float:
    """Returns the free space; infinity where the file system does not tell."""
    disk = os.statvfs(folder)
    if disk.f_blocks == 0:
        return float("inf")
    return disk.f_frsize * (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail)


def _output_error(error: OSError | RuntimeError, *, path: Path) -> OutputError:
    number = error.errno if isinstance(error, OSError) else errno.ELOOP
    remedies = {
        **dict.fromkeys(FULL, "free some space or choose another folder"),
        errno.EFBIG: "this process may not write files of this size; raise the limit (ulimit -f)",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.ELOOP: "choose another name",
    }
    remedy = remedies.get(number or 0, "choose a folder that this user may write to")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return OutputError(f"{path} cannot be written: {reason}; {remedy}")
