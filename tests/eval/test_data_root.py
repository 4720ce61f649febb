from pathlib import Path

import pytest

from eval.data_root import DATA_VARIABLE, data_root
from eval.user_paths import NoHomeError, expanded


def test_given_folder_comes_before_the_variable_and_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An empty variable counts as none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(DATA_VARIABLE, "~/data")
    assert data_root("/given") == Path("/given")
    assert data_root(None) == tmp_path / "data"
    monkeypatch.setenv(DATA_VARIABLE, "")
    assert data_root(None) == tmp_path / ".cache" / "mergesweep" / "data"


def test_unknown_home_is_refused_with_its_user() -> None:
    """The path could mean anything."""
    with pytest.raises(NoHomeError, match="'~nobody-here/x' begins with the home of user 'nobody-"):
        expanded("~nobody-here/x")


def test_variable_with_an_unknown_home_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user sets it, and nobody else."""
    monkeypatch.setenv(DATA_VARIABLE, "~nobody-here/x")
    with pytest.raises(NoHomeError, match=r"^MERGESWEEP_DATA: .~nobody"):
        data_root(None)


def test_user_without_a_home_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user id may have no name."""

    def fail(_: Path) -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "expanduser", fail)
    with pytest.raises(NoHomeError, match=r"the home of this user, .* or set HOME"):
        expanded("~/x")
