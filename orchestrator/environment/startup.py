"""Settles this process's environment before any library is loaded that reads it on the way."""

import os
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from workers.store.private_directory import user_directory

HOME_VARIABLE = "HOME"
FIGURES_VARIABLE = "MPLCONFIGDIR"
"""The directory in which matplotlib keeps its list of fonts; otherwise below the home."""
BACKEND_VARIABLE = "MPLBACKEND"


def settle_environment(environment: MutableMapping[str, str]) -> None:
    """Makes libraries load that need a home or a display, where there is none.

    Args:
        environment: The environment of this process, which its children inherit.
    """
    # Figures are files. A notebook leaves a backend of its own to the commands that it starts, and
    # matplotlib fails to load if that backend is not installed.
    environment[BACKEND_VARIABLE] = "agg"
    if environment.get(HOME_VARIABLE) == "":
        del environment[HOME_VARIABLE]  # Python would take the root directory
    # A run reports a temporary folder that cannot be used; other commands may work without.
    with suppress(OSError):
        _settle_home(environment)


def _settle_home(environment: MutableMapping[str, str]) -> None:
    """Gives a process without a home this user's directory in the temporary folder.

    A user id without a name, as in containers, has none. Ray Tune and others look it up without
    need when they are loaded, and raise.

    Raises:
        NotPrivateError: The directory is not this user's own, or cannot be made.
    """
    try:
        home = Path.home()
    except RuntimeError:
        environment[HOME_VARIABLE] = str(user_directory())
        return
    if not os.access(home, os.W_OK) and FIGURES_VARIABLE not in environment:
        environment[FIGURES_VARIABLE] = str(user_directory() / "matplotlib")
