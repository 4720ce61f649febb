import pytest

from orchestrator.study.checks.tracking import check_tracking


@pytest.mark.parametrize(
    "uri",
    [
        "http://mlflow:5000",
        "HTTPS://mlflow.example.org/base",
        "databricks",
        "databricks://profile",
        "sqlite:////folder/mlflow.db",
        "postgresql://mlflow@db/mlflow",
        "mysql+pymysql://db/mlflow",
    ],
)
def test_servers_and_databases_are_accepted(uri: str) -> None:
    """These are the kinds of addresses that MLflow's client knows."""
    assert list(check_tracking(uri)) == []


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://x",
        "htp://mlflow:5000",
        "postgres://db/mlflow",
        "mlruns",
        "file:///runs",
        "http://",
        "",
    ],
)
def test_other_addresses_are_refused_with_examples(uri: str) -> None:
    """MLflow would refuse them only in the process that sends the runs."""
    (problem,) = check_tracking(uri)
    assert str(problem).startswith(f"tracking: {uri!r} is not allowed; expected the address of an")
    assert "sqlite:////" in problem.remedy


@pytest.mark.parametrize("uri", ["localhost:5000", "127.0.0.1:5000", "mlflow.example.org:80/base"])
def test_a_host_without_a_scheme_is_completed(uri: str) -> None:
    """The message has the address that the user most likely means."""
    (problem,) = check_tracking(uri)
    assert problem.remedy.startswith(f"did you mean http://{uri}? Expected")
