"""Places of MLflow's database and of the publisher's log, also where they cannot be written."""

import os
from pathlib import Path

import pytest

from orchestrator.tracking.database import publisher_log
from orchestrator.tracking.tracker import Tracker


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a temporary folder that the test's own directory is made in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_log_is_beside_a_database_in_a_file(tmp_path: Path) -> None:
    """Also before there is a store."""
    database = tmp_path / "store" / "mlflow.db"
    assert publisher_log(f"sqlite:///{database}") == database.with_suffix(".log")
    assert not database.parent.exists()


def test_log_of_a_server_is_in_this_users_directory(temporary: Path) -> None:
    """Two users of a machine do not meet there."""
    own = temporary / f"mergesweep-{os.getuid()}"
    assert publisher_log("http://mlflow:5000") == own / "mlflow.log"
    assert own.stat().st_mode & 0o777 == 0o700


def test_log_of_a_store_of_another_user_is_in_this_users_directory(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would otherwise get nothing."""
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    log = publisher_log(f"sqlite:///{tmp_path}/mlflow.db")
    assert log == temporary / f"mergesweep-{os.getuid()}" / "mlflow.log"


def test_log_is_dropped_if_there_is_no_place_for_it(temporary: Path) -> None:
    """A view never fails a run."""
    (temporary / f"mergesweep-{os.getuid()}").symlink_to("/")
    assert publisher_log("http://mlflow:5000") == Path(os.devnull)


def test_publisher_that_cannot_be_started_is_reported(tmp_path: Path) -> None:
    """The driver goes on, and learns the reason when it closes."""
    (tmp_path / "file").touch()
    tracker = Tracker.start(
        uri="http://127.0.0.1:9",
        study="demo",
        experiment_tags={},
        log_path=tmp_path / "file" / "mlflow.log",
    )
    report = tracker.close(5)
    assert report.num_pending == 0
    assert "the publisher cannot be started" in tracker.state()
