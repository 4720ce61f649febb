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
    scratch, temporary = sorted(path.name for path in tmp_path.iterdir())[::-1]
    assert scratch.startswith("mergesweep-test-")
    assert is_temporary(temporary)
    remove_unfinished()
    go_on.set()
    assert not ended.wait(0.2)
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write in the block fails, or the folder cannot be created at all."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fill() -> None:
        with scratch_directory("test") as scratch:
            (scratch / "link").symlink_to("/dev/full")
            (scratch / "link").write_bytes(b"x")

    with pytest.raises(ScratchError, match=f"{tmp_path} of .*: No space left.*; free some space"):
        fill()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(ScratchError, match="or set TMPDIR"), scratch_directory("test"):
        pass
