"""Opening MLflow's own pages on what was published."""

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

from orchestrator.tracking.database import database_path

UI_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Seven idle job runners of 220 MB each otherwise, which outlive the server by a minute.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""To be added to the environment of `ui_command`."""


def ui_command(uri: str, *, port: int = 5000) -> list[str]:
    """Returns the command that serves the pages of a database on this machine alone.

    Raises:
        ValueError: The URI is a server already; its address is the page.
    """
    if uri.startswith(("http://", "https://")):
        raise ValueError(f"{uri} is a running MLflow server: open it in a browser")
    listen = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, *listen]


def find_experiment(uri: str, *, study: str) -> str | None:
    """Returns the id of a study's experiment, for links into the pages; None if there is none yet.

    Reads the database or asks the server, without loading mlflow. A server that does not answer,
    or not without a password, counts as none.
    """
    path = database_path(uri)
    try:
        return _ask_server(uri, study=study) if path is None else _ask_file(path, study=study)
    except (OSError, sqlite3.Error):
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
