"""Checks that MLflow can take the address of `tracking`."""

import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from eval.user_paths import NoHomeError, expanded, is_folder
from orchestrator.study.problems import StudyProblem, wrong_value

SERVERS = ("http", "https", "databricks")
"""Schemes of MLflow servers."""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Schemes of databases; a driver may follow, as in `postgresql+psycopg2`."""
_WEB = ("http", "https")
_IN_MEMORY = ("/", "/:memory:")
_PAGE = re.compile(r"/?#.*")
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?")


def check_tracking(uri: str) -> Iterator[StudyProblem]:
    """Yields a problem if MLflow can use no address of this kind. Nothing is connected to.

    MLflow 3 writes neither to plain folders nor to `file:` addresses.
    """
    scheme, _, place = uri.partition("://")
    kind = scheme.lower().partition("+")[0]
    if place and kind in (*SERVERS, *DATABASES):
        remedy = _remedy_for_place(uri, kind=kind, place=place)
        if remedy is not None:
            yield wrong_value("tracking", uri, remedy=remedy)
        return
    if uri == "databricks":  # the profile of that name
        return
    guess = f"did you mean http://{uri}? E" if _HOST_AND_PORT.fullmatch(uri) else "e"
    remedy = (
        f"{guess}xpected the address of an MLflow server, such as http://host:5000, or of a "
        "database, such as sqlite:////folder/mlflow.db or postgresql://host/name"
    )
    yield wrong_value("tracking", uri, remedy=remedy)


def _remedy_for_place(uri: str, *, kind: str, place: str) -> str | None:
    """Returns the remedy for an address of a known kind that leads nowhere; None for others."""
    if uri != uri.strip():
        return "leave out the spaces around it"
    if kind == "sqlite" and place in _IN_MEMORY:
        return "this database ends with its process; name a file, as sqlite:////folder/mlflow.db"
    if kind not in _WEB:
        return _remedy_for_file(place) if kind == "sqlite" else None
    page = _PAGE.search(uri)
    if page is not None:  # copied from a browser
        return f"a page of the server; expected its address alone, {uri[: page.start()]}"
    try:
        parts = urlsplit(uri)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or re.search(r"\s", uri):
        return "expected a host and, behind a colon, a port from 1 to 65535: http://host:5000"
    return None


def _remedy_for_file(place: str) -> str | None:
    """Returns the remedy for the part of an SQLite address behind `sqlite://`."""
    if not place.startswith("/"):
        return f"a file has three slashes before it, four if its path is full: sqlite:////{place}"
    try:
        path = expanded(unquote(place[1:].partition("?")[0]))
    except NoHomeError as error:
        return str(error)
    if is_folder(path):
        return f"{path} is a folder; name a file, as sqlite:///{path / 'mlflow.db'}"
    return None
