import threading
from pathlib import Path

import pytest

from workers.store import unfinished as module
from workers.store.atomic import is_temporary, replacing
from workers.store.machine_errors import ScratchError
from workers.store.scratch import scratch_directory
from workers.store.unfinished import remove_unfinished


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_lock", threading.RLock())
    monkeypatch.setattr(module, "_paths", set())


@pytest.mark.usefixtures("_own_registry")
def test_a_process_that_ends_at_once_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread is in the middle of a write, and never gets to tell of it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    has_begun, go_on, ended = (threading.Event() for _ in range(3))

    def write() -> None:
        with scratch_directory("test") as scratch, replacing(tmp_path / "out") as temporary:
            (scratch / "part").write_bytes(b"part")
            temporary.write_bytes(b"part")
            has_begun.set()
            go_on.wait()
        ended.set()

    threading.Thread(target=write, daemon=True).start()
    has_begun.wait()
    assert sum(is_temporary(path.name) for path in tmp_path.iterdir()) == 1
    assert [path.name for path in tmp_path.rglob("test-*/*")] == ["part"]
    remove_unfinished()
    go_on.set()
    assert not ended.wait(0.2)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write in the block fails, or the folder cannot be created at all."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fill() -> None:
        with scratch_directory("test") as scratch:
            (scratch / "link").symlink_to("/dev/full")
            (scratch / "link").write_bytes(b"x")

    with pytest.raises(
        ScratchError, match=f"{tmp_path}.*/scratch of .*: No space left.*; free some space"
    ):
        fill()


def test_what_a_killed_process_has_left_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one that needs a temporary directory does so, and leaves what others are using."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_directory("used") as used:
        killed = used.parent / "expert-0"
        killed.mkdir()
        (killed / "large").touch()
        with scratch_directory("new") as new:
            assert sorted(used.parent.iterdir()) == sorted([used, new])
    assert list(used.parent.iterdir()) == []
