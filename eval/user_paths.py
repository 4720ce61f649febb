"""Expands the paths that users write: `~` is their home."""

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
