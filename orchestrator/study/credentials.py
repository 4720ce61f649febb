"""Keeps credentials out of study files, which the store, the report and terminals show."""

import re
from urllib.parse import parse_qs

# Up to the last `@`, because a password may contain an unquoted `/` or `?`.
_USER_INFO = re.compile(r"(://)([^\s'\"]*)@")
_SECRET_PARAMETERS = {"password", "passwd", "pwd", "token", "access_token", "secret"}
_SERVER_REMEDY = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the "
    "environment of the command"
)
_DATABASE_REMEDY = (
    "leave the password to the database's client, for example PGPASSWORD or ~/.pgpass, or use an "
    "MLflow server with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
)


def masked(text: str) -> str:
    """Returns a text with the user and password of every address in it hidden."""
    return _USER_INFO.sub(r"\1***@", text)


def remedy_for_credentials(uri: str) -> str | None:
    """Returns the remedy if a tracking address holds credentials; None otherwise.

    A database's user name alone is no credential. A server's is, because a token can stand in its
    place.
    """
    is_server = uri.startswith(("http://", "https://"))
    found = _USER_INFO.search("" if uri.startswith("sqlite:") else uri)
    parameters = {name.lower() for name in parse_qs(uri.partition("?")[2])}
    if not parameters.isdisjoint(_SECRET_PARAMETERS) or (
        found is not None and (is_server or ":" in found.group(2))
    ):
        return _SERVER_REMEDY if is_server else _DATABASE_REMEDY
    return None
