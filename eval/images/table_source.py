"""Reads images and labels from rows of Parquet or Arrow files, as in Hugging Face's data sets."""

from __future__ import annotations

import bisect
import json
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eval.images.protocol import ImageSourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CACHED_BYTES = 2**30
"""Most decompressed bytes of Parquet row groups that a split keeps in memory. A row group is read
whole (3 ms for the hub's hundred images of 23 KB). In ascending order each group is read once; in
any other order, groups that did not fit are read again."""
SUFFIXES = (".parquet", ".arrow")


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelColumn:
    """The labels of a split, as stored in its rows."""

    values: NDArray[Any]
    """Integers or strings, (num,)."""
    names: tuple[str, ...] | None
    """Class names of integer labels, if the file has them."""


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Consecutive rows that are read together."""

    path: Path
    opened: Any
    """The open Parquet file, or the table of a memory-mapped Arrow file."""
    group: int | None
    """Row group of a Parquet file; None for a whole Arrow file."""

    def column(self, name: str) -> Any:  # noqa: ANN401 pyarrow is untyped
        """Reads one column of the rows."""
        if self.group is None:
            return self.opened.column(name)
        try:
            return self.opened.read_row_group(self.group, columns=[name]).column(name)
        except (pa.ArrowException, OSError) as error:
            raise ImageSourceError(f"{self.path}: cannot be read: {error}") from error


class TableSource:
    """A split whose images are cells of tables. Several threads may use it at once."""

    def __init__(
        self, shards: Sequence[Path], *, column: str, labels: NDArray[np.int64], channels: int
    ) -> None:
        self.labels = labels
        self._column = column
        self._channels = channels
        self._pieces: list[_Piece] = []
        self._starts: list[int] = []
        self._read: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        num_rows = 0
        for path in shards:
            for piece, size in _pieces(path):
                self._pieces.append(piece)
                self._starts.append(num_rows)
                num_rows += size

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decodes one image; see `eval.images.protocol.ImageSource`."""
        from eval.images.file_source import decode_bytes  # noqa: PLC0415 loads Pillow, which labels do not need

        number = bisect.bisect_right(self._starts, index) - 1
        row = index - self._starts[number]
        path = self._pieces[number].path
        with self._lock:
            cell = self._rows(number)[row].as_py()
        content = cell["bytes"] if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise ImageSourceError(f"{path}: row {row} of {self._column!r} holds no bytes")
        return decode_bytes(content, channels=self._channels, name=f"{path}, row {row}")

    def name(self, index: int) -> str:
        """Returns the file and the row of an image."""
        path = self._pieces[bisect.bisect_right(self._starts, index) - 1].path
        first = next(n for n, piece in enumerate(self._pieces) if piece.path == path)
        return f"{path.name}, row {index - self._starts[first]}"

    def _rows(self, number: int) -> Any:  # noqa: ANN401 pyarrow is untyped
        if number not in self._read:
            self._read[number] = self._pieces[number].column(self._column)
            while len(self._read) > 1 and self._cached_bytes() > CACHED_BYTES:
                self._read.popitem(last=False)
        self._read.move_to_end(number)
        return self._read[number]

    def _cached_bytes(self) -> int:
        return sum(
            rows.nbytes
            for number, rows in self._read.items()
            if self._pieces[number].group is not None
        )


def find_shards(directory: Path, *, split: str) -> list[Path]:
    """Returns a split's files: `train.parquet`, `train-00000-of-00002.parquet`, `train/*.arrow`.

    If both kinds exist, Parquet files are used. Folders whose name begins with a dot are ignored.

    Raises:
        ImageSourceError: The files lie in several folders, so the data set has several
            configurations.
    """
    named = re.compile(rf"{re.escape(split)}([-_.].*)?")
    for suffix in SUFFIXES:
        found = [
            path
            for path in sorted(directory.rglob(f"*{suffix}"))
            if not any(part.startswith(".") for part in path.relative_to(directory).parts)
            and (named.fullmatch(path.stem) or path.parent.name == split)
            and not path.name.startswith("cache-")
        ]
        folders = sorted({path.parent.relative_to(directory).as_posix() for path in found})
        if len(folders) > 1:
            raise ImageSourceError(
                f"{directory}: files of the split {split!r} lie in several folders, "
                f"{', '.join(folders)}: give one of these folders"
            )
        if found:
            return found
    return []


def read_labels(shards: Sequence[Path], *, column: str) -> LabelColumn:
    """Reads the labels of a split without its images.

    Raises:
        ImageSourceError: A file is incomplete, or its column is missing, has nulls or has values
            of another type.
    """
    parts, names = [], None
    for path in shards:
        schema = _schema(path)
        names = _class_names(schema, column=column) or names
        cells = _whole_column(path, column)
        if cells.null_count:
            raise ImageSourceError(f"{path}: {cells.null_count} rows have no {column!r}")
        parts.append(_plain(path, cells, column=column))
    return LabelColumn(values=np.concatenate(parts), names=names)


def check_image_column(shards: Sequence[Path], *, column: str) -> None:
    """Checks that a column holds bytes, or structs of bytes and path like the hub's data sets.

    Raises:
        ImageSourceError: A file has no such column, or the column has another type.
    """
    for path in shards:
        schema = _schema(path)
        _require(path, column=column, schema=schema)
        kind = schema.field(column).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise ImageSourceError(
                f"{path}: column {column!r} is {kind}, where encoded images are expected: "
                "binary, or a struct with bytes"
            )


def _plain(path: Path, cells: Any, *, column: str) -> NDArray[Any]:  # noqa: ANN401 pyarrow is untyped
    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells, kind = cells.cast(kind.value_type), kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return np.asarray(cells.cast(pa.int64()).to_numpy())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(cells.to_pylist(), dtype=np.str_)
    raise ImageSourceError(f"{path}: column {column!r} is {kind}; labels are integers or strings")


def _pieces(path: Path) -> list[tuple[_Piece, int]]:
    if path.suffix == ".arrow":
        table = _open_arrow(path)
        return [(_Piece(path=path, opened=table, group=None), table.num_rows)]
    opened = _opened(path)
    return [
        (_Piece(path=path, opened=opened, group=group), opened.metadata.row_group(group).num_rows)
        for group in range(opened.metadata.num_row_groups)
    ]


def _whole_column(path: Path, column: str) -> Any:  # noqa: ANN401 pyarrow is untyped
    _require(path, column=column, schema=_schema(path))
    if path.suffix == ".arrow":
        return _open_arrow(path).column(column)
    try:
        return _opened(path).read(columns=[column]).column(column)
    except (pa.ArrowException, OSError) as error:
        raise ImageSourceError(f"{path}: cannot be read: {error}") from error


def _require(path: Path, *, column: str, schema: Any) -> None:  # noqa: ANN401 pyarrow is untyped
    if column not in schema.names:
        raise ImageSourceError(
            f"{path}: no column {column!r}; its columns are {', '.join(schema.names)}"
        )


def _schema(path: Path) -> Any:  # noqa: ANN401 pyarrow is untyped
    return _open_arrow(path).schema if path.suffix == ".arrow" else _opened(path).schema_arrow


def _opened(path: Path) -> Any:  # noqa: ANN401 pyarrow is untyped
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise ImageSourceError(f"{path}: not a whole Parquet file: {error}") from error


def _open_arrow(path: Path) -> Any:  # noqa: ANN401 pyarrow is untyped
    """Maps an Arrow file, in the file format or in the stream format that `datasets` writes."""
    try:
        try:
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise ImageSourceError(f"{path}: not a whole Arrow file: {error}") from error


def _class_names(schema: Any, *, column: str) -> tuple[str, ...] | None:  # noqa: ANN401 pyarrow is untyped
    """Returns the class names in the schema's metadata, where `datasets` writes them."""
    try:
        written = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(written["info"]["features"][column]["names"])
    except (KeyError, TypeError, ValueError):
        return None
