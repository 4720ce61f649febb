"""Finds and downloads data sets of Hugging Face's hub, as files on this machine.

Two layouts are accepted: `<root>/<owner>--<name>/`, which `download_snapshot` writes, and
`<root>/datasets--<owner>--<name>/snapshots/<revision>/`, the layout of `huggingface_hub`'s cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.images.protocol import ImageSourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_METADATA_DIR = (".cache", "huggingface", "download")
"""Folder in which `huggingface_hub` records the commit of each file of a `local_dir`."""


def snapshot_directory(repository: str, *, revision: str, root: Path, remedy: str) -> Path:
    """Returns the directory of a snapshot on this machine.

    Args:
        repository: Owner and name, separated by a slash.
        revision: The commit.
        root: The data root.
        remedy: How to get the snapshot, for errors.

    Raises:
        ImageSourceError: The snapshot is missing, or has another revision.
    """
    cached = root / f"datasets--{repository.replace('/', '--')}" / "snapshots" / revision
    if cached.is_dir():
        return cached
    directory = _local(repository, root=root)
    if not directory.is_dir():
        raise ImageSourceError(
            f"{directory}: no such directory; it should have the Parquet files of {repository} at "
            f"{revision}. {remedy}"
        )
    others = sorted(_revisions(directory) - {revision})
    if others:
        raise ImageSourceError(
            f"{directory}: its files have revision {', '.join(others)}, not {revision}. {remedy}"
        )
    return directory


def download_snapshot(
    repository: str, *, revision: str, root: Path, patterns: Sequence[str]
) -> Path:
    """Downloads files of a data set from the hub, and returns their directory.

    Raises:
        ImageSourceError: The hub does not return the files.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 loads an HTTP client

    directory = _local(repository, root=root)
    try:
        snapshot_download(
            repository,
            repo_type="dataset",
            revision=revision,
            local_dir=directory,
            allow_patterns=list(patterns),
        )
    except Exception as error:  # errors of its HTTP client and its own have no common base class
        raise ImageSourceError(
            f"{repository} at {revision}: the hub returned no files: {error}"
        ) from error
    return directory


def snapshot_remedy(repository: str, *, revision: str, root: Path) -> str:
    """Returns the command that downloads a snapshot, as a sentence for a message."""
    return (
        f"Get it with: python -m eval.vision.download {repository} --revision {revision} "
        f"--root {root}"
    )


def _local(repository: str, *, root: Path) -> Path:
    return root / repository.replace("/", "--")


def _revisions(directory: Path) -> set[str]:
    """Returns the commits of the files, as far as `huggingface_hub` recorded them."""
    metadata = directory.joinpath(*_METADATA_DIR)
    lines = (path.read_text(encoding="utf-8").split("\n") for path in metadata.rglob("*.metadata"))
    return {first[0].strip() for first in lines}
