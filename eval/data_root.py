"""The directory of downloaded data sets on a machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from eval.user_paths import NoHomeError, expanded

if TYPE_CHECKING:
    from pathlib import Path

DATA_VARIABLE = "MERGESWEEP_DATA"
"""Environment variable with the data root; every node of a cluster has its own value."""
_DEFAULT = "~/.cache/mergesweep/data"


def data_root(root: str | None) -> Path:
    """Returns the data root: the given one, else `MERGESWEEP_DATA`, else the user's cache.

    Raises:
        NoHomeError: The path begins with a home that this machine does not know.
    """
    if root:
        return expanded(root).absolute()
    try:
        return expanded(os.environ.get(DATA_VARIABLE) or _DEFAULT).absolute()
    except NoHomeError as error:
        raise NoHomeError(f"{DATA_VARIABLE}: {error}") from error
