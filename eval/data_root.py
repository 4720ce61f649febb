"""The directory of downloaded data sets on a machine."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "MERGESWEEP_DATA"
"""Environment variable with the data root; every node of a cluster has its own value."""


def data_root(root: str | None) -> Path:
    """Returns the data root: the given one, else `MERGESWEEP_DATA`, else the user's cache."""
    default = os.environ.get(DATA_VARIABLE) or "~/.cache/mergesweep/data"
    return Path(root or default).expanduser().absolute()
