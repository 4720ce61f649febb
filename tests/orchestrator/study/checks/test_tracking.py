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
        "http://[::1]:5000",
        "sqlite:///mlflow.db",
        "sqlite:///~/mlflow.db",
        "postgresql://db/name#1",
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


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("http://h:99999", "a port from 1 to 65535"),
        ("http://h:abc", "a port from 1 to 65535"),
        ("http://:5000", "expected a host"),
        ("http://[::1", "expected a host"),
        ("https://my host/x", "expected a host"),
        ("http://h:5000 ", "leave out the spaces around it"),
        ("http://h:5000/#/experiments/1", "expected its address alone, http://h:5000"),
        ("https://h/base#/models", "expected its address alone, https://h/base"),
        ("sqlite:///", "this database ends with its process"),
        ("sqlite:///:memory:", "sqlite:////folder/mlflow.db"),
        ("sqlite://home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("sqlite:///$HOME/mlflow.db", "begins with the variable $HOME"),
        ("sqlite:///~nobody-here/mlflow.db", "the home of user 'nobody-here'"),
        ("sqlite:////tmp", "name a file, as sqlite:////tmp/mlflow.db"),
    ],
)
def test_address_that_leads_nowhere_is_refused(uri: str, remedy: str) -> None:
    """The process that sends the runs would try it for hours, or send them to nobody."""
    (problem,) = check_tracking(uri)
    assert problem.fault == f"{uri!r} is not allowed"
    assert remedy in problem.remedy
