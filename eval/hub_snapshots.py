"""Data sets from Hugging Face's hub, as files on this machine.

Two layouts are known: `<root>/<owner>--<name>/`, which `download_snapshot` leaves, and
`<root>/datasets--<owner>--<name>/snapshots/<revision>/`, a cache of `huggingface_hub`'s own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.images.protocol import ImageSourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NOTES = (".cache", "huggingface", "download")
"""Where `huggingface_hub` notes which commit each file of a `local_dir` is of."""


def snapshot_directory(repository: str, *, revision: str, root: Path, remedy: str) -> Path:
    """Finds a snapshot on this machine.

    Args:
        repository: Owner and name.
        revision: The commit.
        root: The data root.
        remedy: How to get it, for errors.

    Raises:
        ImageSourceError: It is not there, or is of another revision.
    """
    cached = root / f"datasets--{repository.replace('/', '--')}" / "snapshots" / revision
    if cached.is_dir():
        return cached
    directory = _local(repository, root=root)
    if not directory.is_dir():
        raise ImageSourceError(
            f"{directory}: no such directory; expected there: the Parquet files of {repository} at "
            f"{revision}. {remedy}"
        )
    others = sorted(_revisions(directory) - {revision})
    if others:
        raise ImageSourceError(
            f"{directory}: its files are of revision {', '.join(others)}, not {revision}. {remedy}"
        )
    return directory


def download_snapshot(
    repository: str, *, revision: str, root: Path, patterns: Sequence[str]
) -> Path:
    """Downloads files of a data set from the hub, and returns where they lie.

    Raises:
        ImageSourceError: The hub does not give the files.
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
    except Exception as error:  # its HTTP client's errors have no common root with its own
        raise ImageSourceError(
            f"{repository} at {revision}: the hub gave nothing: {error}"
        ) from error
    return directory


def snapshot_remedy(repository: str, *, revision: str, root: Path) -> str:
    """Says how to get a snapshot that is in no catalogue."""
    return (
        f"Get it with: python -m eval.vision.download {repository} --revision {revision} "
        f"--root {root}"
    )


def _local(repository: str, *, root: Path) -> Path:
    return root / repository.replace("/", "--")


def _revisions(directory: Path) -> set[str]:
    """Returns the commits that the files are of, as far as it was noted."""
    notes = directory.joinpath(*_NOTES)
    lines = (path.read_text(encoding="utf-8").split("\n") for path in notes.rglob("*.metadata"))
    return {first[0].strip() for first in lines}
