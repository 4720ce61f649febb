"""Directories that no other user of the machine can write to.

A name in the shared temporary folder can be guessed, so another user may create it first. Whoever
uses such a name without a look at its owner trusts that user: weights from a cache of theirs would
be loaded, and a log that is a link would be written wherever the link points.
"""

import os
import stat
import tempfile
from pathlib import Path

from workers.store.machine_errors import NotPrivateError

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_directory(path: Path, *, remedy: str) -> Path:
    """Returns a directory that belongs to this user and that others cannot write to.

    Creates it with mode 0700 if necessary. Others may read an existing one, such as a directory
    that the user made by hand. Two calls from two processes are safe: one of them creates it.

    Args:
        path: The directory. Its parent is either this user's or has the sticky bit, as `/tmp` has,
            so that nobody can exchange the directory after the check.
        remedy: The variable or option that names another directory, such as `set TMPDIR to a
            directory of your own`.

    Raises:
        NotPrivateError: The path is a link or no directory, belongs to another user, can be
            written by others, or cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        problem = _problem(path)
    except FileExistsError:
        problem = "is a link" if path.is_symlink() else "is a file, or below a file"
    except OSError as error:
        problem = f"cannot be used as a directory: {error.strerror}"
    if problem is not None:
        raise NotPrivateError(f"{path} {problem}; {remedy}")
    return path


def user_directory(folder: Path | None = None) -> Path:
    """Returns this user's directory in a shared folder, for logs, locks and caches.

    Args:
        folder: The shared folder; the temporary folder by default.

    Raises:
        NotPrivateError: The directory is not this user's own, or cannot be made.
    """
    path = user_directory_path(folder)
    return private_directory(path, remedy="set TMPDIR to a directory of your own")


def user_directory_path(folder: Path | None = None) -> Path:
    """Returns the name of the user's directory, without a look at it."""
    return (folder or Path(tempfile.gettempdir())) / f"mergesweep-{os.getuid()}"


def _problem(path: Path) -> str | None:
    """Returns why an existing path is not private; None if it is."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return f"is a link to {path.readlink()}, which could be pointed elsewhere"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid} and not to this user, {os.geteuid()}"
    if found.st_mode & _OTHERS_MAY_WRITE:
        mode = stat.S_IMODE(found.st_mode)
        return (
            f"can be written by other users (mode {mode:04o}; if it is yours alone, "
            "`chmod -R go-w` closes it)"
        )
    return None
