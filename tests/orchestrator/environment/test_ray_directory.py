import os
from pathlib import Path

import pytest

from orchestrator.environment.problems import VariableError
from orchestrator.environment.ray_directory import (
    MAX_DIRECTORY_BYTES,
    check_temporary_directory,
    ray_directory,
)
from workers.store.machine_errors import NotPrivateError


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Makes a folder that all users share, with a short name."""
    folder = tmp_path / "t"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture(autouse=True)
def long_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allows the long names of the tests' own folders."""
    monkeypatch.setattr("orchestrator.environment.ray_directory.MAX_DIRECTORY_BYTES", 300)


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_shared_folder_has_a_directory_of_this_user(shared: Path, name: str) -> None:
    """Nobody else can write to it, and two users do not meet in it."""
    own = shared / f"mergesweep-{os.getuid()}"
    assert ray_directory({name: str(shared)}) == own / "ray"
    assert own.stat().st_mode & 0o777 == 0o700


def test_folder_of_ones_own_is_used_as_it_is(tmp_path: Path) -> None:
    """Schedulers give each job a folder, whose names may be long already."""
    tmp_path.chmod(0o755)
    assert ray_directory({"TMPDIR": str(tmp_path)}) == tmp_path / "ray"


def test_rays_own_variable_comes_first(shared: Path, tmp_path: Path) -> None:
    """As for Ray itself; an empty one does not count."""
    given = {"TMPDIR": "/nowhere", "RAY_TMPDIR": str(shared)}
    assert ray_directory(given).is_relative_to(shared)
    assert ray_directory({"TMPDIR": str(tmp_path), "RAY_TMPDIR": ""}).is_relative_to(tmp_path)


def test_directory_of_another_user_is_refused(shared: Path) -> None:
    """The message names the variable that moves it."""
    (shared / f"mergesweep-{os.getuid()}").symlink_to("/")
    with pytest.raises(NotPrivateError, match="set TMPDIR"):
        ray_directory({"TMPDIR": str(shared)})


def test_name_that_is_too_long_for_a_socket_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has both lengths, and a folder whose name is short enough."""
    monkeypatch.undo()
    assert MAX_DIRECTORY_BYTES == 43
    folder = tmp_path / ("d" * 60)
    folder.mkdir()
    for name in ("TMPDIR", "RAY_TMPDIR"):
        with pytest.raises(VariableError) as caught:
            ray_directory({name: str(folder)})
        message = str(caught.value)
        assert message.startswith(f"{name} is '/")
        assert f"a name of {len(str(folder))} bytes" in message
        assert "107 bytes that Linux allows, for which 39 are left" in message
        assert f"`unset {name}`" in message


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("relative", "not an absolute path"),
        ("/nowhere/at/all", "not a folder"),
        ("/etc/passwd", "not a folder"),
        ("/proc", "no file can be made"),
    ],
)
def test_unusable_folder_is_refused(name: str, text: str, fault: str) -> None:
    """Python would silently take another folder, and Ray would raise in the middle of its start."""
    with pytest.raises(VariableError, match=f"^{name} is '{text}', .*{fault}.*`unset {name}`"):
        ray_directory({name: text})


def test_temporary_folder_of_other_programs_is_checked_too() -> None:
    """Also if Ray uses another one."""
    check_temporary_directory({})
    check_temporary_directory({"TMPDIR": ""})
    with pytest.raises(VariableError, match="not a folder"):
        check_temporary_directory({"TMPDIR": "/nowhere", "RAY_TMPDIR": "/tmp"})
