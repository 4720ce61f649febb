"""Locates and prepares an MLflow database in one SQLite file."""

import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

from eval.user_paths import expanded
from workers.store.machine_errors import NotPrivateError
from workers.store.private_directory import user_directory

_PREFIX = "sqlite:///"
_RESERVED = re.compile(r"[%?#]")
"""Characters that end the path of a URI, or escape others."""
_SIDE_FILES = ("-wal", "-shm", "-journal")
"""Ends of the names of the files that SQLite keeps beside a database."""
_CHECKPOINT_WAIT_S = 5.0
_DAMAGES = ("file is not a database", "database disk image is malformed")
"""SQLite's messages for a file that it cannot use."""


def database_uri(path: Path) -> str:
    """Returns the tracking URI of a file, also if MLflow would read its name as something else."""
    return _PREFIX + _RESERVED.sub(lambda found: quote(found[0]), str(path))


def database_path(uri: str) -> Path | None:
    """Returns the file that MLflow opens for a URI of SQLite; None for any other URI."""
    if not uri.startswith(_PREFIX):
        return None
    return Path(unquote(uri.removeprefix(_PREFIX).partition("?")[0]))


def located(uri: str) -> str:
    """Returns a tracking URI whose file, if it has one, is absolute and has `~` expanded.

    Raises:
        NoHomeError: The path begins with a variable, or with a home that is not known.
    """
    path = database_path(uri)
    if path is None:
        return uri
    _, mark, query = uri.partition("?")
    return database_uri(expanded(str(path)).absolute()) + mark + query


def is_damaged(error: str) -> bool:
    """Returns whether an error says that the file of an SQLite database is damaged."""
    return any(each in error for each in _DAMAGES)


def prepare_database(path: Path) -> None:
    """Switches the file to write-ahead mode for good.

    Write-ahead mode lets the MLflow pages read while the publisher writes, and an MLflow run costs
    18 ms instead of 21 ms. The mode needs shared memory, so the file must be on a local disk and
    not on NFS.
    """
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def empty_log(path: Path) -> None:
    """Moves all that is in the write-ahead log into the database's file.

    A process that ends leaves its log behind. Who then copies the file alone would lose what the
    log has, which may be everything.

    Raises:
        sqlite3.Error: The database is damaged, or cannot be written.
    """
    with closing(sqlite3.connect(path, timeout=_CHECKPOINT_WAIT_S)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def only_creator(path: Path) -> Iterator[None]:
    """Lets one process at a time create a database, and removes what an older one has left there.

    A database that was deleted may have left its log behind. SQLite would write this log into the
    new database, which would then be damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not path.exists():
            for end in _SIDE_FILES:
                path.with_name(path.name + end).unlink(missing_ok=True)
        yield
    finally:
        os.close(folder)


def publisher_log(uri: str) -> Path:
    """Returns the path of the log: beside an SQLite file, or else in this user's own directory.

    A store may belong to another user. Without any place for it, the log is dropped.
    """
    path = database_path(uri)
    if path is not None and is_writable(beside := path.with_suffix(".log")):
        return beside
    try:
        return user_directory() / "mlflow.log"
    except NotPrivateError:
        return Path(os.devnull)


def is_writable(path: Path) -> bool:
    """Returns whether this user may write to a file, or create it and the folders above it."""
    existing = next(each for each in (path, *path.absolute().parents) if each.exists())
    return os.access(existing, os.W_OK)
