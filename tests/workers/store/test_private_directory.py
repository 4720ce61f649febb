import os
from pathlib import Path

import pytest

from workers.store.machine_errors import NotPrivateError
from workers.store.private_directory import private_directory, user_directory

REMEDY = "set PLACE to a directory of your own"


def test_a_new_directory_is_closed_to_others(tmp_path: Path) -> None:
    """Its mode is 0700 also where the umask would let others in, and its parents are made."""
    path = tmp_path / "a" / "b"
    before = os.umask(0o002)
    try:
        assert private_directory(path, remedy=REMEDY) == path
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o700
    assert private_directory(path, remedy=REMEDY) == path


def test_others_may_read_but_not_write(tmp_path: Path) -> None:
    """A directory that the user made is used as it is, unless others can put files into it."""
    tmp_path.chmod(0o755)
    assert private_directory(tmp_path, remedy=REMEDY) == tmp_path
    for mode in (0o775, 0o757, 0o1777):
        tmp_path.chmod(mode)
        with pytest.raises(NotPrivateError, match=f"mode {mode:04o}.*; set PLACE"):
            private_directory(tmp_path, remedy=REMEDY)


def test_a_link_is_refused(tmp_path: Path) -> None:
    """This includes a link to a directory of one's own, and a link to nothing."""
    own = private_directory(tmp_path / "own", remedy=REMEDY)
    for target in (own, tmp_path / "gone"):
        link = tmp_path / f"link-to-{target.name}"
        link.symlink_to(target)
        with pytest.raises(NotPrivateError, match=r"is a link.*; set PLACE"):
            private_directory(link, remedy=REMEDY)


def test_a_file_is_refused(tmp_path: Path) -> None:
    """The directory, or one above it, is a file."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotPrivateError, match=r"is a file, .*; set PLACE"):
        private_directory(file, remedy=REMEDY)
    with pytest.raises(NotPrivateError, match="; set PLACE"):
        private_directory(file / "below", remedy=REMEDY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """Another user may have created the name first."""
    path = private_directory(tmp_path / "own", remedy=REMEDY)
    os.chown(path, 12345, -1)
    with pytest.raises(NotPrivateError, match=r"belongs to user 12345 .*; set PLACE"):
        private_directory(path, remedy=REMEDY)


def test_each_user_has_a_directory_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name has the user's number, because users share the folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert user_directory() == tmp_path / f"mergesweep-{os.getuid()}"
