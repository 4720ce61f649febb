"""Chooses the directory for the session of a Ray of this process's own: sockets, logs, objects.

Ray's default is `ray` in the temporary folder. Whoever starts Ray first owns that directory, and
Ray opens it to all users, who could then exchange each other's sessions.
"""

import os
import stat
import tempfile
from pathlib import Path

from orchestrator.environment.problems import Environment, VariableError, VariableProblem
from workers.store.private_directory import user_directory

DIRECTORY_VARIABLE = "RAY_TMPDIR"
TEMPORARY_VARIABLE = "TMPDIR"
DEFAULT_FOLDER = "/tmp"  # noqa: S108 Ray's default too; what is made there is private
MAX_SOCKET_BYTES = 107
"""The longest name that Linux allows a socket."""
_SESSION = "/session_2026-11-28_22-30-02_602377_4194304/sockets/plasma_store"
"""Ray's longest name below the directory, with the longest process id of Linux."""
MAX_DIRECTORY_BYTES = MAX_SOCKET_BYTES - len(_SESSION)
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def ray_directory(environment: Environment) -> Path:
    """Returns the directory for Ray's sessions, which is this user's own.

    It is `ray` in the folder that RAY_TMPDIR or TMPDIR names if that folder is this user's own, and
    otherwise `ray` in a directory of this user's in the folder.

    Raises:
        VariableError: There is no such folder, no file can be made in it, or its name is too long
            for a socket.
        NotPrivateError: Another user has the directory.
    """
    name = DIRECTORY_VARIABLE if environment.get(DIRECTORY_VARIABLE) else TEMPORARY_VARIABLE
    folder = _checked_folder(name, environment.get(name) or DEFAULT_FOLDER)
    directory = (folder if _is_own(folder) else user_directory(folder)) / "ray"
    spare = MAX_DIRECTORY_BYTES - len(os.fsencode(directory))
    if spare < 0:
        raise _too_long(name, folder, max_bytes=len(os.fsencode(folder)) + spare)
    return directory


def check_temporary_directory(environment: Environment) -> None:
    """Checks the folder for temporary files; Python would silently take another one.

    Raises:
        VariableError: TMPDIR names no folder, or one in which no file can be made.
    """
    if text := environment.get(TEMPORARY_VARIABLE):
        _checked_folder(TEMPORARY_VARIABLE, text)


def _checked_folder(name: str, text: str) -> Path:
    folder = Path(text)
    if not folder.is_absolute():
        raise _problem(name, folder, fault="which is not an absolute path")
    if not folder.is_dir():
        raise _problem(name, folder, fault="which is not a folder of this machine")
    try:
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        fault = f"a folder in which no file can be made ({error.strerror})"
        raise _problem(name, folder, fault=fault) from error


def _is_own(folder: Path) -> bool:
    """Returns whether a folder belongs to this user, and no other user may write to it."""
    found = folder.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_MAY_WRITE


def _problem(name: str, folder: Path, *, fault: str) -> VariableError:
    remedy = (
        f"set {name} to a folder that you may write to, for example `export {name}="
        f"{DEFAULT_FOLDER}`, or `unset {name}`"
    )
    problem = VariableProblem(name=name, value=str(folder), fault=fault, remedy=remedy)
    return VariableError([problem])


def _too_long(name: str, folder: Path, *, max_bytes: int) -> VariableError:
    fault = (
        f"a name of {len(os.fsencode(folder))} bytes: Ray's sockets below it would have longer "
        f"names than the {MAX_SOCKET_BYTES} bytes that Linux allows, for which {max_bytes} are left"
    )
    remedy = (
        f"`export {DIRECTORY_VARIABLE}={DEFAULT_FOLDER}` moves Ray's files alone, and "
        f"`unset {name}` all temporary files"
    )
    problem = VariableProblem(name=name, value=str(folder), fault=fault, remedy=remedy)
    return VariableError([problem])
