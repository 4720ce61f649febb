"""Writes and opens image splits: one Arrow IPC file of images and labels, mapped, never copied.

A split is decoded and resized once and mapped into memory by every trial on a node, so the file is
uncompressed and holds one record batch: the images of the whole split are one run of bytes.

Errors::

    ValueError
    └── SplitFormatError    a file is not a split, or arrays do not make one
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_NUM_IMAGE_AXES = 4
_GEOMETRY = ("height", "width", "channels")


class SplitFormatError(ValueError):
    """Says which file, or which array, is not a split, and what is wrong with it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Holds one split of a task."""

    images: NDArray[np.uint8]
    """Pixels, (num, height, width, channels); read-only if opened from a file."""
    labels: NDArray[np.int64]
    """Positions in the task's classes, (num,)."""

    def __len__(self) -> int:
        """Counts the images."""
        return len(self.labels)

    def batch(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Returns a copy of the images at some positions, and their labels."""
        return self.images[positions], self.labels[positions]

    def rows(self, start: int, stop: int) -> Split:
        """Returns the images from `start` up to `stop`, without copying them."""
        return Split(images=self.images[start:stop], labels=self.labels[start:stop])


def write_split(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Writes one split as an Arrow IPC file; equal arrays give byte-identical files.

    Shapes:
        images: (num, height, width, channels), num > 0. labels: (num,).

    Raises:
        SplitFormatError: If shapes or dtypes are others than these.
    """
    _check_arrays(path, images=images, labels=labels)
    num_bytes = images[0].size
    pixels = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(num_bytes), len(images), [None, pa.py_buffer(np.ascontiguousarray(images))]
    )
    metadata = dict(zip(_GEOMETRY, map(str, images.shape[1:]), strict=True))
    schema = pa.schema(
        [
            pa.field("image", pa.binary(num_bytes), nullable=False),
            pa.field("label", pa.int64(), nullable=False),
        ],
        metadata=metadata,
    )
    batch = pa.record_batch([pixels, pa.array(labels)], schema=schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)


def open_split(path: Path) -> Split:
    """Maps a split into memory; the arrays are views of the file and read-only.

    Raises:
        FileNotFoundError: If there is no such file.
        SplitFormatError: If the file is torn, or is something else.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        num_batches = reader.num_record_batches
        batch = reader.get_batch(0) if num_batches == 1 else None
    except pa.ArrowInvalid as error:
        raise SplitFormatError(f"{path}: not a whole Arrow file: {error}") from error
    if batch is None:
        raise SplitFormatError(f"{path}: {num_batches} record batches, a split has one")
    height, width, channels = _read_geometry(path, schema=batch.schema)
    return Split(
        images=_column(path, batch=batch, name="image").reshape(-1, height, width, channels),
        labels=_column(path, batch=batch, name="label").view(np.int64),
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


def _read_geometry(path: Path, *, schema: Any) -> tuple[int, int, int]:  # noqa: ANN401 pyarrow is untyped
    metadata = schema.metadata or {}
    try:
        height, width, channels = (int(metadata[key.encode()]) for key in _GEOMETRY)
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
