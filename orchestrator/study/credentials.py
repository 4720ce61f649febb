"""Keeps credentials out of study files, which the store, the report and terminals show."""

import re
from urllib.parse import parse_qs

# To the last `@`, for a password may hold `/` or `?` where it should have been quoted.
_USER_INFO = re.compile(r"(://)([^\s'\"]*)@")
_SECRET_PARAMETERS = {"password", "passwd", "pwd", "token", "access_token", "secret"}
_SERVER_REMEDY = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, where "
    "the command runs"
)
_DATABASE_REMEDY = (
    "leave the password to the database's client, for example PGPASSWORD or ~/.pgpass, or track "
    "through an MLflow server with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
)


def masked(text: str) -> str:
    """Returns a text to be shown, user and password of any address in it hidden."""
    return _USER_INFO.sub(r"\1***@", text)


def remedy_for_credentials(uri: str) -> str | None:
    """Returns what to do instead if a tracking address holds credentials, else None.

    The user of a database is none, that of a server is: tokens stand in its place.
    """
    is_server = uri.startswith(("http://", "https://"))
    found = _USER_INFO.search("" if uri.startswith("sqlite:") else uri)
    parameters = {name.lower() for name in parse_qs(uri.partition("?")[2])}
    if not parameters.isdisjoint(_SECRET_PARAMETERS) or (
        found is not None and (is_server or ":" in found.group(2))
    ):
        return _SERVER_REMEDY if is_server else _DATABASE_REMEDY
    return None
