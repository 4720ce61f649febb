"""Downloads a published data set or one of the hub: `python -m eval.vision.download NAME`.

Downloading is a separate step. A run never downloads, because nodes of a cluster often have no
network.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from eval.data_root import DATA_VARIABLE, data_root
from eval.hub_snapshots import download_snapshot
from eval.images.protocol import ImageSourceError
from eval.vision.catalogue import read_catalogue
from eval.vision.published import open_vision, remedy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from eval.vision.catalogue import VisionSource

SUN397_LISTS = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"
"""The official partitions, which torchvision does not download. Their digest is not known."""


def download_vision(task_name: str, root: Path) -> None:
    """Downloads a data set's files into a data root; existing files are kept.

    Raises:
        ImageSourceError: The files cannot be downloaded; the message says why, and how to get them.
    """
    source = read_catalogue()[task_name]["source"]
    root.mkdir(parents=True, exist_ok=True)
    if "hub" in source:
        patterns = [f"*{split}-*.parquet" for split in (*source["train"], *source["test"])]
        download_snapshot(source["hub"], revision=source["revision"], root=root, patterns=patterns)
        return
    if "by_hand" in source:
        raise ImageSourceError(f"{task_name}: {remedy(task_name, root=root)}")
    try:
        _download_by_torchvision(source, root=root)
    except Exception as error:
        raise ImageSourceError(f"{task_name}: cannot be downloaded to {root}: {error}") from error


def _download_by_torchvision(source: VisionSource, *, root: Path) -> None:
    from torchvision import datasets  # noqa: PLC0415 loads torch, which a wrong name need not
    from torchvision.datasets.utils import download_and_extract_archive  # noqa: PLC0415

    kind = getattr(datasets, source["torchvision"])
    if source["torchvision"] == "SUN397":
        kind(root, download=True)
        download_and_extract_archive(SUN397_LISTS, download_root=str(root / "SUN397"))
        return
    parts: list[dict[str, Any]] = [*source["train"], *source["test"]]
    for part in parts:
        kind(root, **part, download=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Downloads a data set and opens it as a check.

    Returns:
        0; 2 if that fails; 1 if the data root cannot be written; 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    root = data_root(options.root)
    try:
        if "/" in options.name:
            _download_own(options, root=root)
        elif options.name in read_catalogue():
            download_vision(options.name, root)
            open_vision(options.name, root=root)
        else:
            names = ", ".join(read_catalogue())
            raise ImageSourceError(  # noqa: TRY301 one place prints all errors
                f"{options.name!r} is neither owner/name of a hub data set nor one of {names}"
            )
    except ImageSourceError as error:
        _say(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        _say(
            f"error: {root} cannot be written: {error.strerror}; choose another folder with --root "
            f"or {DATA_VARIABLE}, or free some space",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        _say("interrupted; the same command continues", file=sys.stderr)
        return 130
    _say(f"{options.name} is under {root}")
    return 0


def _download_own(options: argparse.Namespace, *, root: Path) -> None:
    if options.revision is None:
        raise ImageSourceError(f"{options.name}: give the commit of the data set with --revision")
    patterns = ["*.parquet", "*.arrow"]
    download_snapshot(options.name, revision=options.revision, root=root, patterns=patterns)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.vision.download",
        description="Downloads a published data set, or one of the hub, into the data root.",
    )
    parser.add_argument("name", help="a task of the catalogue, or owner/name of a hub data set")
    parser.add_argument("--revision", metavar="SHA", help="the commit of a hub data set")
    parser.add_argument(
        "--root",
        metavar="DIR",
        help=f"the data root; default: {DATA_VARIABLE}, or the user's cache",
    )
    return parser


def _say(text: str, *, file: Any = None) -> None:  # noqa: ANN401 a stream
    print(text, file=file, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
