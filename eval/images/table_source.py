"""Reads images and labels from rows of Parquet or Arrow files, as in Hugging Face's data sets."""

from __future__ import annotations

import bisect
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eval.counts import counted
from eval.images.content import kind_of_content
from eval.images.protocol import BadImageError, ImageSourceError
from eval.images.table_files import is_arrow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CACHED_BYTES = 2**30
"""Most decompressed bytes of Parquet row groups that a split keeps in memory. A row group is read
whole (3 ms for the hub's hundred images of 23 KB). In ascending order each group is read once; in
any other order, groups that did not fit are read again."""
_MAX_NAMED = 5
_HEAD_BYTES = 256
_MAX_SHOWN = 80


_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


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
            raise BadImageError(str(path), f"row {row} of {self._column!r} holds no bytes")
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


def read_labels(shards: Sequence[Path], *, column: str) -> LabelColumn:
    """Reads the labels of a split without its images.

    Raises:
        ImageSourceError: A file is incomplete, or its column is missing, has nulls or has values
            of another type. Or files have other class names for the same integers.
    """
    parts = [read_label_column(path, column=column) for path in shards]
    named = [(path, part.names) for path, part in zip(shards, parts, strict=True) if part.names]
    for path, names in named:
        if names != named[0][1]:
            raise ImageSourceError(
                f"{path}: its class names {names[:_MAX_NAMED]} are not those of {named[0][0]}, "
                f"{named[0][1][:_MAX_NAMED]}"
            )
    values = np.concatenate([part.values for part in parts])
    return LabelColumn(values=values, names=named[0][1] if named else None)


def read_label_column(path: Path, *, column: str) -> LabelColumn:
    """Reads the labels of one file without its images.

    Raises:
        ImageSourceError: As `read_labels` does.
    """
    names = _class_names(path, column=column)
    cells = _whole_column(path, column)
    if pa.types.is_dictionary(cells.type):  # whose values may be null as well
        cells = cells.cast(cells.type.value_type)
    if cells.null_count:
        raise ImageSourceError(f"{path}: no {column!r} in {counted(cells.null_count, 'row')}")
    return LabelColumn(values=_plain(path, cells, column=column), names=names)


def check_image_column(shards: Sequence[Path], *, column: str) -> None:
    """Checks that a column holds bytes, or structs of bytes and path like the hub's data sets.

    Raises:
        ImageSourceError: A file has no such column, or the column has another type.
    """
    for path in shards:
        schema = _schema(path)
        _require(path, column=column, schema=schema)
        kind = schema.field(column).type
        if pa.types.is_null(kind) and not sum(size for _, size in _pieces(path)):
            continue
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if not any(is_kind(kind) for is_kind in _BINARY):
            raise ImageSourceError(
                f"{path}: column {column!r} is {kind}, where encoded images are expected: "
                "binary, or a struct with bytes"
            )


def _plain(path: Path, cells: Any, *, column: str) -> NDArray[Any]:  # noqa: ANN401 pyarrow is untyped
    kind = cells.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        try:
            return np.asarray(cells.cast(pa.int64()).to_numpy())
        except pa.ArrowInvalid as error:
            raise ImageSourceError(f"{path}: column {column!r}: {error}") from error
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _text(path, cells.to_pylist(), column=column)
    if not len(cells):  # whose type says nothing
        return np.zeros(0, dtype=np.int64)
    raise ImageSourceError(f"{path}: column {column!r} is {kind}; labels are integers or strings")


def _text(path: Path, labels: list[str], *, column: str) -> NDArray[np.str_]:
    num_empty = sum(not label.strip() for label in labels)
    if num_empty:
        raise ImageSourceError(f"{path}: an empty {column!r} in {counted(num_empty, 'row')}")
    return np.array(labels, dtype=np.str_)


def _pieces(path: Path) -> list[tuple[_Piece, int]]:
    if is_arrow(path):
        table = _open_arrow(path)
        return [(_Piece(path=path, opened=table, group=None), table.num_rows)]
    opened = _opened(path)
    return [
        (_Piece(path=path, opened=opened, group=group), opened.metadata.row_group(group).num_rows)
        for group in range(opened.metadata.num_row_groups)
    ]


def _whole_column(path: Path, column: str) -> Any:  # noqa: ANN401 pyarrow is untyped
    _require(path, column=column, schema=_schema(path))
    if is_arrow(path):
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
    if schema.names.count(column) > 1:
        raise ImageSourceError(
            f"{path}: {schema.names.count(column)} of its columns are called {column!r}; "
            "rename all but one"
        )


def _schema(path: Path) -> Any:  # noqa: ANN401 pyarrow is untyped
    return _open_arrow(path).schema if is_arrow(path) else _opened(path).schema_arrow


def _opened(path: Path) -> Any:  # noqa: ANN401 pyarrow is untyped
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        reason = _why_no_table(path) or str(error)
        raise ImageSourceError(f"{path}: not a whole Parquet file: {reason}") from error


def _open_arrow(path: Path) -> Any:  # noqa: ANN401 pyarrow is untyped
    """Maps an Arrow file, in the file format or in the stream format that `datasets` writes."""
    try:
        try:
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        reason = _why_no_table(path) or str(error)
        raise ImageSourceError(f"{path}: not a whole Arrow file: {reason}") from error


def _why_no_table(path: Path) -> str | None:
    """Returns the kind of a file that is no table, if it is known; or why it cannot be read."""
    try:
        with path.open("rb") as file:
            return kind_of_content(file.read(_HEAD_BYTES))
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _class_names(path: Path, *, column: str) -> tuple[str, ...] | None:
    """Returns the class names in the schema's metadata, where `datasets` writes them.

    Raises:
        ImageSourceError: They are no list of texts. Numbers are names too, as in `datasets`.
    """
    try:
        written = json.loads((_schema(path).metadata or {})[b"huggingface"])
        names = written["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or not all(
        isinstance(each, str | int | float) for each in names
    ):
        raise ImageSourceError(
            f"{path}: the class names of {column!r} in its metadata are {str(names)[:_MAX_SHOWN]}, "
            "where a list of texts is expected"
        )
    return tuple(map(str, names))
