"""Expands the paths that users write, `~` being their home, and looks at what is there.

`Path.is_file` and `Path.exists` raise an error for a name that is too long, and for a path in the
folder of another user. Here nothing can be found there.
"""

import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(\w+|\{\w+\})(?=/|$)")


class NoHomeError(ValueError):
    """A path begins with a home that this machine does not know, or with a variable.

    The message says what to do.
    """


def expanded(path: str) -> Path:
    """Returns a path in which `~` and `~user` are replaced by the home.

    Raises:
        NoHomeError: There is no such home. Or the path begins with a variable, as in `$HOME/data`,
            which a shell replaces and a study file does not.
    """
    if found := _VARIABLE.match(path):
        raise NoHomeError(
            f"{path!r} begins with the variable {found[0]}, which is replaced in a shell only; "
            f"write the path in full, or ./{path} for a folder of this name"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = Path(path).parts[0].removeprefix("~")
        whose = f"user {user!r}" if user else "this user"
        raise NoHomeError(
            f"{path!r} begins with the home of {whose}, which this machine does not know; write "
            "the path in full" + ("" if user else ", or set HOME")
        ) from error


def is_file(path: str | Path) -> bool:
    """Returns whether a path is a file, or a link to one, that this user can look at."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


def is_folder(path: str | Path) -> bool:
    """Returns whether a path is a folder, or a link to one, that this user can look at."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def is_there(path: str | Path) -> bool:
    """Returns whether a path is anything that this user can look at, such as a broken link."""
    try:
        Path(path).lstat()
    except OSError:
        return False
    return True
