"""Checks that MLflow can take the address of `tracking`."""

import re
from collections.abc import Iterator

from orchestrator.study.problems import StudyProblem, wrong_value

SERVERS = ("http", "https", "databricks")
"""Schemes of MLflow servers."""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Schemes of databases; a driver may follow, as in `postgresql+psycopg2`."""
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?")


def check_tracking(uri: str) -> Iterator[StudyProblem]:
    """Yields a problem if MLflow can use no address of this kind. Nothing is connected to.

    MLflow 3 writes neither to plain folders nor to `file:` addresses.
    """
    scheme, _, place = uri.partition("://")
    if place and scheme.lower().partition("+")[0] in (*SERVERS, *DATABASES):
        return
    if uri == "databricks":  # the profile of that name
        return
    guess = f"did you mean http://{uri}? E" if _HOST_AND_PORT.fullmatch(uri) else "e"
    remedy = (
        f"{guess}xpected the address of an MLflow server, such as http://host:5000, or of a "
        "database, such as sqlite:////folder/mlflow.db or postgresql://host/name"
    )
    yield wrong_value("tracking", uri, remedy=remedy)
