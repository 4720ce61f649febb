"""Opens MLflow's own pages on a study's MLflow runs."""

import json
import sqlite3
import sys
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

from orchestrator.tracking.database import database_path

UI_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Otherwise the server starts seven job runners of 220 MB, which outlive it by a minute.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""Variables to add to the environment of `ui_command`."""


def ui_command(uri: str, *, port: int = 5000) -> list[str]:
    """Returns the command that serves the pages of a database to this machine only.

    Raises:
        ValueError: The URI is the address of a running server.
    """
    if uri.startswith(("http://", "https://")):
        raise ValueError(f"{uri} is a running MLflow server: open it in a browser")
    listen = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, *listen]


def find_experiment(uri: str, *, study: str) -> str | None:
    """Returns the id of a study's MLflow experiment, for links; None if there is none yet.

    Reads the database or asks the server, without loading mlflow. Returns None as well if the
    server does not answer, asks for a password, or is none of MLflow's.
    """
    path = database_path(uri)
    try:
        return _ask_server(uri, study=study) if path is None else _ask_file(path, study=study)
    except (OSError, sqlite3.Error, HTTPException, ValueError, LookupError, TypeError):
        return None


def _ask_file(path: Path, *, study: str) -> str | None:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        query = "SELECT experiment_id FROM experiments WHERE name = ?"
        row = connection.execute(query, [study]).fetchone()
    return str(row[0]) if row else None


def _ask_server(uri: str, *, study: str) -> str | None:
    path = "/api/2.0/mlflow/experiments/get-by-name?"
    address = uri.rstrip("/") + path + urlencode({"experiment_name": study})
    if not address.startswith(("http://", "https://")):
        return None
    with urlopen(address, timeout=5) as reply:  # noqa: S310 the scheme was checked
        experiment_id: str = json.load(reply)["experiment"]["experiment_id"]
    return experiment_id
