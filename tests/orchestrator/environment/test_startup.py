import os
from pathlib import Path

import pytest

from orchestrator.environment.startup import settle_environment


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def _without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)


def test_user_without_a_home_gets_one(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Tune does not load without."""
    _without_a_home(monkeypatch)
    environment: dict[str, str] = {"HOME": ""}
    settle_environment(environment)
    assert environment["HOME"] == str(temporary / f"mergesweep-{os.getuid()}")
    assert Path(environment["HOME"]).is_dir()


def test_home_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether it can be written to or not."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    environment = {"HOME": str(tmp_path)}
    settle_environment(environment)
    assert environment == {"HOME": str(tmp_path), "MPLBACKEND": "agg"}


def test_figures_need_no_home_that_can_be_written_to(
    monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    """Otherwise matplotlib complains on the terminal at every command that draws."""
    monkeypatch.setattr(Path, "home", lambda: Path("/nonexistent/home"))
    environment = {"HOME": "/nonexistent/home"}
    settle_environment(environment)
    assert environment["HOME"] == "/nonexistent/home"
    assert Path(environment["MPLCONFIGDIR"]).is_relative_to(temporary)
    environment = {"HOME": "/nonexistent/home", "MPLCONFIGDIR": "/mine"}
    settle_environment(environment)
    assert environment["MPLCONFIGDIR"] == "/mine"


def test_backend_of_a_notebook_is_not_loaded() -> None:
    """Commands that a notebook starts inherit its backend, which may not be installed here."""
    environment = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "HOME": "/"}
    settle_environment(environment)
    assert environment["MPLBACKEND"] == "agg"


def test_unusable_temporary_folder_is_left_to_the_run(
    monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    """Commands that need neither home nor temporary folder still work."""
    _without_a_home(monkeypatch)
    (temporary / f"mergesweep-{os.getuid()}").symlink_to("/")
    environment: dict[str, str] = {}
    settle_environment(environment)
    assert "HOME" not in environment
