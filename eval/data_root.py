"""Where downloaded data sets lie on a machine."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "MERGESWEEP_DATA"
"""Environment variable: where data sets lie, on every node for itself."""


def data_root(root: str | None) -> Path:
    """Returns the data root: as given, or of `MERGESWEEP_DATA`, or in the user's cache."""
    default = os.environ.get(DATA_VARIABLE) or "~/.cache/mergesweep/data"
    return Path(root or default).expanduser().absolute()
