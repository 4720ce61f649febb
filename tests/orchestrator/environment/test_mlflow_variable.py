import pytest

from orchestrator.environment.mlflow_variable import unread_server

USED = "sqlite:////store/mlflow.db"


def test_variable_that_is_not_read_is_said_with_the_field_that_is() -> None:
    """Users of MLflow set it and expect their runs there; a password in it is not shown."""
    named = {"MLFLOW_TRACKING_URI": "https://me:hush@mlflow:5000"}
    warning = unread_server(named, tracking=None, used=USED)
    assert warning is not None
    assert warning.startswith("MLFLOW_TRACKING_URI is https://***@mlflow:5000, but")
    assert f"here to {USED}. Write `tracking: https" in warning
    assert "hush" not in warning


@pytest.mark.parametrize(
    ("named", "tracking"),
    [
        (None, None),
        ("", None),
        (f"{USED}/", None),
        ("http://a", "http://b"),
        ("http://a", "http://a"),
    ],
)
def test_nothing_is_said_where_the_study_file_decides(
    named: str | None, tracking: str | None
) -> None:
    """Or where the variable is unset, or names the same place."""
    environment = {} if named is None else {"MLFLOW_TRACKING_URI": named}
    assert unread_server(environment, tracking=tracking, used=tracking or USED) is None
