"""Writes and memory-maps the files of a split: Arrow IPC files of images and labels.

A split is decoded and resized once, and every trial on a node maps it into memory. A file is
therefore uncompressed and holds one record batch, so that its images are contiguous. A split is cut
into shards of at most `SHARD_BYTES`, so that it can be made, checked and fetched piece by piece.

Errors::

    ValueError
    └── SplitFormatError    a file is no shard, files do not match, or arrays have a wrong shape
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from eval.images.split import Split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SHARD_BYTES = 1 << 28
"""Largest size of a shard's pixels, 256 MB: 1,783 colour images of 224 pixels, or 87,381 of 32. The
files of an artifact depend on it, so another number needs another version of data artifacts."""

_NUM_IMAGE_AXES = 4
_GEOMETRY = ("height", "width", "channels")
_NAME = re.compile(r"(?P<split>[a-z]+)-[0-9]{5}\.arrow")


class SplitFormatError(ValueError):
    """A file or an array is not a shard of a split; the message says which and why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """One file of a split, memory-mapped and read-only."""

    images: NDArray[np.uint8]
    """Pixels, (num, height, width, channels)."""
    labels: NDArray[np.int64]
    """Positions in the task's classes, (num,)."""
    about: Mapping[str, str]
    """Metadata from the writer."""


def images_per_shard(*, image_size: int, channels: int, shard_bytes: int = SHARD_BYTES) -> int:
    """Returns the number of square images in every shard but a split's last; at least one."""
    return max(1, shard_bytes // (image_size * image_size * channels))


def shard_name(split: str, number: int) -> str:
    """Returns the file name of a split's shard; shards are numbered from 0."""
    return f"{split}-{number:05d}.arrow"


def shard_names(names: Iterable[str], *, split: str) -> list[str]:
    """Returns the names that belong to shards of a split, in the order of its images."""
    matches = ((name, _NAME.fullmatch(name)) for name in names)
    return sorted(name for name, match in matches if match and match["split"] == split)


def write_shard(
    path: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    about: Mapping[str, str] | None = None,
) -> None:
    """Writes images and labels to an Arrow IPC file; equal arguments give byte-identical files.

    Shapes:
        images: (num, height, width, channels), uint8, num > 0.
        labels: (num,), int64.

    Raises:
        SplitFormatError: A shape or dtype is another.
    """
    _check_arrays(path, images=images, labels=labels)
    num_bytes = images[0].size
    pixels = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(num_bytes), len(images), [None, pa.py_buffer(np.ascontiguousarray(images))]
    )
    geometry = dict(zip(_GEOMETRY, map(str, images.shape[1:]), strict=True))
    schema = pa.schema(
        [
            pa.field("image", pa.binary(num_bytes), nullable=False),
            pa.field("label", pa.int64(), nullable=False),
        ],
        metadata={**geometry, **(about or {})},
    )
    batch = pa.record_batch([pixels, pa.array(labels)], schema=schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)


def open_split(paths: Sequence[Path]) -> Split:
    """Maps the shards of a split into memory, in the given order; at most labels are copied.

    Raises:
        FileNotFoundError: A file does not exist.
        SplitFormatError: A file is incomplete or no shard, or images differ in their shape.
    """
    shards = [open_shard(path) for path in paths]
    shapes = {shard.images.shape[1:] for shard in shards}
    if len(shapes) != 1:
        names = ", ".join(map(str, paths[:2]))
        raise SplitFormatError(f"{len(paths)} shards ({names} ...) have images of shapes {shapes}")
    labels = [shard.labels for shard in shards]
    return Split(
        images=[shard.images for shard in shards],
        labels=labels[0] if len(labels) == 1 else np.concatenate(labels),
    )


def open_shard(path: Path) -> Shard:
    """Maps one file into memory; its arrays are read-only views of the file.

    Raises:
        FileNotFoundError: The file does not exist.
        SplitFormatError: The file is incomplete or no shard.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        num_batches = reader.num_record_batches
        batch = reader.get_batch(0) if num_batches == 1 else None
    except pa.ArrowInvalid as error:
        raise SplitFormatError(f"{path}: not a whole Arrow file: {error}") from error
    if batch is None:
        raise SplitFormatError(f"{path}: {num_batches} record batches, a shard has one")
    metadata = {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in (batch.schema.metadata or {}).items()
    }
    height, width, channels = _read_geometry(path, metadata=metadata, schema=batch.schema)
    return Shard(
        images=_column(path, batch=batch, name="image").reshape(-1, height, width, channels),
        labels=_column(path, batch=batch, name="label").view(np.int64),
        about={key: value for key, value in metadata.items() if key not in _GEOMETRY},
    )


def _check_arrays(path: Path, *, images: NDArray[Any], labels: NDArray[Any]) -> None:
    if images.dtype != np.uint8 or images.ndim != _NUM_IMAGE_AXES or images.size == 0:
        raise SplitFormatError(
            f"{path}: images must be uint8 (num, height, width, channels) and not empty, "
            f"not {images.dtype} {images.shape}"
        )
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise SplitFormatError(
            f"{path}: labels must be int64 ({len(images)},), not {labels.dtype} {labels.shape}"
        )


def _read_geometry(path: Path, *, metadata: Mapping[str, str], schema: Any) -> tuple[int, int, int]:  # noqa: ANN401 pyarrow is untyped
    try:
        height, width, channels = (int(metadata[key]) for key in _GEOMETRY)
    except (KeyError, ValueError) as error:
        raise SplitFormatError(f"{path}: no valid {'/'.join(_GEOMETRY)} in its metadata") from error
    expected = {"image": pa.binary(height * width * channels), "label": pa.int64()}
    found = {field.name: field.type for field in schema}
    if found != expected:
        raise SplitFormatError(f"{path}: columns are {found}, its metadata promises {expected}")
    return height, width, channels


def _column(path: Path, *, batch: Any, name: str) -> NDArray[np.uint8]:  # noqa: ANN401 pyarrow is untyped
    column = batch.column(name)
    if column.null_count or column.offset:
        raise SplitFormatError(f"{path}: column {name} has nulls or starts late")
    num_bytes = len(column) * (column.type.bit_width // 8)
    return np.frombuffer(column.buffers()[1], dtype=np.uint8, count=num_bytes)
