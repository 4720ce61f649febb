"""The folder of figures beside an MLflow database in a file.

MLflow keeps the absolute address of this folder in the database, once for a study and once for
each MLflow run. It is wrong when the database and its figures were moved or copied together.
"""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from eval.user_paths import is_file, is_folder

_FOLDER = "mlflow-artifacts"
_SCHEME = "file://"
_WAIT_S = 20
_log = logging.getLogger(__name__)


def artifact_root(database: Path, *, study: str) -> str:
    """Returns the URI of the directory for a study's figures, beside the database."""
    return (database.resolve().parent / _FOLDER / study).as_uri()


def kept_beside(database: Path, *, study: str) -> list[str]:
    """Returns the names that exist: of a database, and of the folder of a study's figures."""
    figures = database.resolve().parent / _FOLDER / study
    return [database.name] * is_file(database) + [f"{_FOLDER}/{study}"] * is_folder(figures)


def follow_move(database: Path, *, beside: Path) -> None:
    """Makes a database look for figures beside itself, wherever it was when they were written.

    Otherwise, the pages of a moved store have no figures, and new ones are written where the store
    was. In a copy, they are written into the original. Only experiments are changed whose figures
    are in a folder of their name. A database that cannot be changed is left as it is.

    Args:
        database: The file.
        beside: The same, or the file that it was copied from without the figures.
    """
    try:
        _follow_move(database, beside=beside)
    except sqlite3.Error as error:
        _log.warning("figures are looked for where %s had them before: %s", database, error)


def _follow_move(database: Path, *, beside: Path) -> None:
    with closing(sqlite3.connect(database, timeout=_WAIT_S)) as connection, connection:
        query = "SELECT experiment_id, name, artifact_location FROM experiments"
        for number, study, old in connection.execute(query).fetchall():
            new = artifact_root(beside, study=study)
            end = new[new.rindex(f"/{_FOLDER}/") :]
            if not old or old == new or not (old.startswith(_SCHEME) and old.endswith(end)):
                continue
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                [new, len(old) + 1, number, len(old) + 1, f"{old}/"],
            )
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                [new, number],
            )
