"""Reads vendored sources, and checks the digest of each first.

A task's fingerprint covers the digests in the index. A source that changed while the index did not
would give other images under the same fingerprint, so it is refused. Hashing all sources takes
about 15 ms.

Errors::

    ValueError
    └── SourceDigestError    a source is not the file that the index describes
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eval.digests import sha256_of_file
from eval.embedded.index import SOURCES_DIR, read_index

Pixels = NDArray[np.uint8]
"""Images or one image, channels last."""

_SKIMAGE_PREFIX = "skimage:"


class SourceDigestError(ValueError):
    """A source differs from the index; the message has its path and both digests."""


def locate(source: str) -> Path:
    """Returns the path of a source: under ``sources/``, or in scikit-image's installation.

    scikit-image is not imported, because its own loaders may download.
    """
    if not source.startswith(_SKIMAGE_PREFIX):
        return SOURCES_DIR / source
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("scikit-image is not installed, and its photographs are sources")
    return Path(spec.submodule_search_locations[0], "data", source.removeprefix(_SKIMAGE_PREFIX))


def verified(source: str) -> Path:
    """Returns the path of a source after checking its digest.

    Raises:
        SourceDigestError: The digest is not the one in the index.
    """
    path = locate(source)
    expected, found = read_index()["files"][source], sha256_of_file(path)
    if found != expected:
        raise SourceDigestError(
            f"{path}: sha256 is {found}, but the index has {expected} for {source}; "
            "reinstall the project and its pinned dependencies"
        )
    return path


def read_arrays(source: str) -> dict[str, Pixels]:
    """Reads the arrays of an npz source."""
    with np.load(verified(source), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def read_json(source: str) -> dict[str, Any]:
    """Reads a JSON source."""
    return cast("dict[str, Any]", json.loads(verified(source).read_bytes()))


@cache
def read_picture(source: str, *, mode: str = "RGB") -> Pixels:
    """Decodes a picture, (height, width, channels). It is cached, and therefore read-only."""
    with Image.open(verified(source)) as picture:
        pixels = np.asarray(picture.convert(mode)).copy()
    pixels.flags.writeable = False
    return pixels
