"""Builds the folder that a submission uploads: the study, and from a checkout also the code."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.cluster.submission import JOB_INPUT_FILE, SubmitError
from workers.artifacts.code_version import code_version
from workers.store.scratch import scratch_directory

MAX_UPLOAD_BYTES = 512 * 2**20
"""Ray's limit for a folder, which passes through the head's memory."""
STUDY_FILE = "study.yaml"
_PACKAGES = ("orchestrator", "workers", "merge", "eval")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")


def checkout() -> Path | None:
    """Returns the root of the checkout that this program runs from, None if it is installed.

    Nodes cannot have a checkout's code, so it is uploaded. They must have an installed release.
    """
    root = Path(__file__).parents[2]
    return root if (root / "pyproject.toml").is_file() else None


@contextmanager
def upload_folder(
    *, study_text: str, job_input: Mapping[str, Any], code: Path | None
) -> Iterator[Path]:
    """Yields a temporary folder to upload.

    It contains nothing else of the directory in which the command runs.

    Args:
        study_text: The study file, as written.
        job_input: Further input of the job, stored as JSON.
        code: The root of a checkout whose packages are copied; None to copy no code.

    Raises:
        SubmitError: The folder is larger than Ray's limit.
    """
    with scratch_directory("submit") as folder:
        (folder / STUDY_FILE).write_text(study_text, encoding="utf-8")
        (folder / JOB_INPUT_FILE).write_text(json.dumps(dict(job_input)), encoding="utf-8")
        if code is not None:
            _copy_code(code, folder)
        check_size(folder)
        yield folder


def _copy_code(root: Path, folder: Path) -> None:
    for package in _PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=_LEFT_OUT)
    # Artifacts name the version that made them. The copy has no git, and a node may have no
    # installed release, so the version travels as package metadata.
    release = code_version()
    metadata = folder / f"mergesweep-{release}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: mergesweep\nVersion: {release}\n")


def check_size(folder: Path, *, max_bytes: int = MAX_UPLOAD_BYTES) -> None:
    """Checks that a folder is small enough to be uploaded.

    Raises:
        SubmitError: It is too large; the message names the three largest files.
    """
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    num_bytes = sum(sizes.values())
    if num_bytes <= max_bytes:
        return
    largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
    named = ", ".join(
        f"{path.relative_to(folder)} ({sizes[path] / 2**20:,.0f} MiB)" for path in largest
    )
    raise SubmitError(
        f"the upload has {num_bytes / 2**20:,.0f} MiB, and Ray takes at most "
        f"{max_bytes / 2**20:,.0f} MiB; move the largest files out of the packages: {named}"
    )
