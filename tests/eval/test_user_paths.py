from pathlib import Path

import pytest

from eval.user_paths import NoHomeError, expanded, is_file, is_there


def test_paths_that_cannot_be_looked_at_are_not_there(tmp_path: Path) -> None:
    """A name that is too long is no file; a broken link is there and is none."""
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    (tmp_path / "here").touch()
    assert [is_file(link), is_there(link)] == [False, True]
    assert is_file(tmp_path / "here")
    assert is_there(str(tmp_path / "here"))
    assert not is_file("a" * 300)
    assert not is_there("a" * 300)


@pytest.mark.parametrize("path", ["$HOME/x", "${DATA}", "$DATA"])
def test_variables_are_not_taken_for_names_of_folders(path: str) -> None:
    """A shell replaces them, and a study file is read by none."""
    with pytest.raises(NoHomeError, match=r"begins with the variable \$"):
        expanded(path)
    assert expanded(f"./{path}") == Path(path)
