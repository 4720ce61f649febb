"""Expands the paths that users write: `~` is their home."""

from pathlib import Path


class NoHomeError(ValueError):
    """A path begins with a home that this machine does not know; the message says what to do."""


def expanded(path: str) -> Path:
    """Returns a path in which `~` and `~user` are replaced by the home.

    Raises:
        NoHomeError: There is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = Path(path).parts[0].removeprefix("~")
        whose = f"user {user!r}" if user else "this user"
        raise NoHomeError(
            f"{path!r} begins with the home of {whose}, which this machine does not know; write "
            "the path in full" + ("" if user else ", or set HOME")
        ) from error
