import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cluster.submission import JOB_INPUT_FILE, SubmitError
from orchestrator.cluster.upload import STUDY_FILE, check_size, checkout, upload_folder
from workers.artifacts.code_version import code_version


def test_folder_has_the_study_and_nothing_of_this_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, results and .env in the submitter's directory are not uploaded."""
    (tmp_path / ".env").write_text("SECRET=1")
    monkeypatch.chdir(tmp_path)
    with upload_folder(
        study_text="name: x\n", job_input={"store": "s3://b/p"}, code=None
    ) as folder:
        assert {path.name for path in folder.iterdir()} == {STUDY_FILE, JOB_INPUT_FILE}
        assert (folder / STUDY_FILE).read_text() == "name: x\n"
        assert json.loads((folder / JOB_INPUT_FILE).read_text()) == {"store": "s3://b/p"}
    assert not folder.exists()


def test_uploaded_code_is_imported_on_the_head() -> None:
    """A checkout's four packages, without caches, win over a node's installed ones."""
    code = checkout()
    assert code is not None
    with upload_folder(study_text="", job_input={}, code=code) as folder:
        assert not [path for path in folder.rglob("*") if path.name == "__pycache__"]
        assert not (folder / "tests").exists()
        names = ("orchestrator", "workers", "merge", "eval")
        where = f"import {', '.join(names)}; print(*(m.__file__ for m in ({', '.join(names)})))"
        done = subprocess.run(
            [sys.executable, "-c", where],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert all(path.startswith(str(folder)) for path in done.stdout.split())


def test_uploaded_code_has_the_version_of_the_checkout() -> None:
    """Artifacts name their commit even on nodes without an installed release."""
    with upload_folder(study_text="", job_input={}, code=checkout()) as folder:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from workers.artifacts.code_version import *; print(code_version())",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == code_version()


def test_folder_that_is_too_large_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    """It is refused before the upload."""
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "large.bin").write_bytes(bytes(3 * 2**20))
    (tmp_path / "small.py").write_bytes(b"x")
    check_size(tmp_path, max_bytes=4 * 2**20)
    with pytest.raises(
        SubmitError, match=r"has 3 MiB, .* at most 2 MiB; .*eval/large.bin \(3 MiB\)"
    ):
        check_size(tmp_path, max_bytes=2 * 2**20)
