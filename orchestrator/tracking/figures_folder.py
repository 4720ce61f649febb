"""The folder of figures beside an MLflow database in a file.

MLflow keeps the absolute address of this folder in the database, once for a study and once for
each MLflow run. It is wrong when the database and its figures were moved or copied together.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from eval.user_paths import is_file, is_folder, is_there

_FOLDER = "mlflow-artifacts"
_SCHEME = "file://"
_WAIT_S = 20


def artifact_root(database: Path, *, study: str) -> str:
    """Returns the URI of the directory for a study's figures, beside the database."""
    return (database.resolve().parent / _FOLDER / study).as_uri()


def is_deleted(database: Path, *, study: str) -> bool:
    """Returns whether a database, or the folder of a study's figures beside it, is gone."""
    return not (is_file(database) and is_folder(database.resolve().parent / _FOLDER / study))


def lacks_files(database: Path, *, study: str, run_id: str, paths: Iterable[str]) -> bool:
    """Returns whether any of an MLflow run's files is not beside the database."""
    folder = database.resolve().parent / _FOLDER / study / run_id / "artifacts"
    return not all(is_there(folder / path) for path in paths)


def follow_move(database: Path, *, beside: Path) -> bool:
    """Makes a database look for figures beside itself, wherever it was when they were written.

    Otherwise, the pages of a moved store have no figures, and new ones are written where the store
    was. In a copy, they are written into the original.

    Args:
        database: The file; it has MLflow's tables.
        beside: The same, or the file that it was copied from without the figures.

    Returns:
        Whether anything was changed. Only studies are: experiments whose figures are in a folder of
        their name.

    Raises:
        sqlite3.Error: The database is damaged, or cannot be written.
    """
    changed = False
    with closing(sqlite3.connect(database, timeout=_WAIT_S)) as connection, connection:
        query = "SELECT experiment_id, name, artifact_location FROM experiments"
        for number, study, old in connection.execute(query).fetchall():
            new = artifact_root(beside, study=study)
            end = new[new.rindex(f"/{_FOLDER}/") :]
            if not old or old == new or not (old.startswith(_SCHEME) and old.endswith(end)):
                continue
            changed = True
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                [new, len(old) + 1, number, len(old) + 1, f"{old}/"],
            )
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                [new, number],
            )
    return changed
