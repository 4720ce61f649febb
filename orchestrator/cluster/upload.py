"""The folder that a submission takes to the cluster: the study, and the code where it is needed."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.cluster.submission import SUBMITTED_FILE, SubmitError
from workers.artifacts.code_version import code_version

MAX_SHIPPED_BYTES = 512 * 2**20
"""Ray's limit for a folder; it goes through the head's memory."""
SHIPPED_STUDY = "study.yaml"
_PACKAGES = ("orchestrator", "workers", "merge", "eval")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")


def checkout() -> Path | None:
    """Returns the checkout that this program runs from, None if it is installed.

    The nodes cannot have a checkout's code, and are expected to have an installed release.
    """
    root = Path(__file__).parents[2]
    return root if (root / "pyproject.toml").is_file() else None


@contextmanager
def shipped_folder(
    *, study_text: str, told: Mapping[str, Any], code: Path | None
) -> Iterator[Path]:
    """Yields a folder to upload, which is gone at the end of a `with` block.

    Nothing else of the directory that the command runs in is taken along.

    Args:
        study_text: The study file, as written.
        told: What the job is told besides, as JSON.
        code: The root of a checkout whose packages are taken along; None for none.

    Raises:
        SubmitError: The folder is larger than Ray takes.
    """
    with tempfile.TemporaryDirectory(prefix="mergesweep-submit-") as name:
        folder = Path(name)
        (folder / SHIPPED_STUDY).write_text(study_text, encoding="utf-8")
        (folder / SUBMITTED_FILE).write_text(json.dumps(dict(told)), encoding="utf-8")
        if code is not None:
            _copy_code(code, folder)
        check_size(folder)
        yield folder


def _copy_code(root: Path, folder: Path) -> None:
    for package in _PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=_LEFT_OUT)
    # What artifacts are marked with: a copy has no git, and nodes may have no release.
    release = code_version()
    metadata = folder / f"mergesweep-{release}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: mergesweep\nVersion: {release}\n")


def check_size(folder: Path, *, max_bytes: int = MAX_SHIPPED_BYTES) -> None:
    """Returns if a folder is small enough to be uploaded.

    Raises:
        SubmitError: It is not; the message names the largest files.
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
        f"what would be sent has {num_bytes / 2**20:,.0f} MiB and Ray takes "
        f"{max_bytes / 2**20:,.0f}: move the largest out of the packages: {named}"
    )
