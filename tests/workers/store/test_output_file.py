import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.store.output_file import OutputError, check_output, output_file, write_output


@pytest.fixture
def umask() -> Iterator[None]:
    """Sets the usual umask for the test."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.usefixtures("umask")
def test_new_files_follow_the_umask_and_old_ones_keep_their_mode(tmp_path: Path) -> None:
    """Other users of a shared folder can read both."""
    path = tmp_path / "out"
    write_output(path, b"1")
    assert mode_of(path) == 0o644
    path.chmod(0o664)
    write_output(path, b"2")
    assert (mode_of(path), path.read_bytes()) == (0o664, b"2")


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    """This includes a link in another folder, and a link to a file that does not exist yet."""
    (tmp_path / "folder").mkdir()
    link, file = tmp_path / "link", tmp_path / "folder" / "file"
    link.symlink_to(file)
    for content in (b"1", b"2"):
        write_output(link, content)
        assert link.is_symlink()
        assert file.read_bytes() == content
    assert [path.name for path in file.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder", "it is a folder; name a file"),
        ("gone/out", "the folder .*/gone does not exist; create the folder first"),
        ("file/out", "the folder .*/file is a file"),
        ("x" * 256, "File name too long; choose a shorter name"),
        ("loop", "loop .*; choose another name"),
        ("/proc/out", "cannot be written: .*; choose a folder"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, name: str, said: str
) -> None:
    """The message is one line, and nothing is left behind."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=said) as raised:
        check_output(tmp_path / name)
    assert len(str(raised.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_is_too_small_is_known_before_the_work(tmp_path: Path) -> None:
    """The message has both sizes."""
    with pytest.raises(OutputError, match=r"needs 1,000,000,000,000\.0 MB, and the disk has .* MB"):
        check_output(tmp_path / "out", num_bytes=10**18)


def test_after_a_failed_write_the_old_file_is_whole(tmp_path: Path) -> None:
    """A limit of the process stands for a disk that others fill in the meantime."""
    program = f"""
import resource, pathlib
from workers.store.output_file import OutputError, output_file
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with output_file(pathlib.Path({str(tmp_path / "out")!r})) as file:
        file.write(bytes(2000))
except OutputError as error:
    print(error)
"""
    (tmp_path / "out").write_text("old")
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "File too large; this process may not write files of this size" in ended.stdout
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    """The temporary file is deleted whatever the error is."""

    def fail() -> None:
        with output_file(tmp_path / "out") as file:
            file.write(b"part")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_folder_and_file_are_refused() -> None:
    """A file in a folder with the sticky bit, as `/tmp`, can be replaced by its owner only."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        closed, sticky = Path(name), Path(name, "sticky")
        closed.chmod(0o755)
        sticky.mkdir()
        sticky.chmod(0o1777)
        (sticky / "out").write_text("old")
        os.seteuid(12345)
        try:
            with pytest.raises(OutputError, match="belongs to user 0; choose a folder"):
                check_output(sticky / "out")
            check_output(sticky / "new")
            with pytest.raises(OutputError, match="Permission denied; choose a folder"):
                check_output(closed / "out")
        finally:
            os.seteuid(0)


def test_pipes_are_written_to_where_one_write_is_enough(tmp_path: Path) -> None:
    """`/dev/stdout` is such a name; a pipe of a closed program is an error in words."""
    check_output(Path("/dev/null"))
    with pytest.raises(OutputError, match="a device or a pipe"), output_file(Path("/dev/null")):
        pass
    receiving, sending = os.pipe()
    write_output(Path(f"/dev/fd/{sending}"), b"content")
    assert os.read(receiving, 100) == b"content"
    os.close(receiving)
    with pytest.raises(OutputError, match="Broken pipe"):
        write_output(Path(f"/dev/fd/{sending}"), b"content")
    os.close(sending)
    assert list(tmp_path.iterdir()) == []
