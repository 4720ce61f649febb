"""The header of a safetensors file: read and checked, or laid out and written, without torch.

A file has the header's length (8 bytes), the header (JSON), and the tensors one after another.
Everything that may be wrong with a file shows in its first bytes, in the header, and in the file's
size, so a command can refuse bad files before it loads torch.
"""

import json
import math
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from eval.counts import first_names
from workers.models.file_kinds import kind_of, missing_file

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The format's limit, which keeps readers from allocating what a damaged length says."""
_BEGINNING_BYTES = 1024
_METADATA = "__metadata__"

DTYPE_BITS = {
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "F32": 32,
    "U32": 32,
    "I32": 32,
    "BF16": 16,
    "F16": 16,
    "U16": 16,
    "I16": 16,
    "F8_E5M2FNUZ": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E8M0": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "I8": 8,
    "U8": 8,
    "F6_E3M2": 6,
    "F6_E2M3": 6,
    "F4": 4,
    "BOOL": 8,
}
"""Bits of an entry by dtype. Files that we write have their tensors in this order, so that each
begins at a multiple of its entries' size. The order is the one of the safetensors library: equal
tensors give equal bytes, whoever writes them."""
_RANKS = {dtype: rank for rank, dtype in enumerate(DTYPE_BITS)}


class TensorFileError(ValueError):
    """A file is no safetensors file, or is damaged; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The place and the type of a tensor in a file."""

    dtype: str
    """A key of `DTYPE_BITS`."""
    shape: tuple[int, ...]
    start: int
    """Position of the tensor's first byte in the file."""
    stop: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """The tensors of a file."""

    entries: Mapping[str, Entry]
    """By name; files that we write have them in the order of their bytes."""
    metadata: Mapping[str, str]
    """Texts by name, such as `{"format": "pt"}`."""
    num_bytes: int
    """Size of the file."""


def read_header(path: Path) -> Header:
    """Reads the header of a file and compares it with the file's size.

    Raises:
        TensorFileError: The file cannot be read, is in another format, or is damaged.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for its writer
            raise TensorFileError(f"{path}: {kind_of(b'', path=path)}")
        with path.open("rb") as file:
            return _Reading(path=path, num_bytes=found.st_size).header(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TensorFileError(f"{path}: {missing_file(path)}") from error
    except PermissionError as error:
        raise TensorFileError(
            f"{path}: this user may not read it; its owner can change that with `chmod a+r`"
        ) from error
    except OSError as error:
        raise TensorFileError(f"{path}: cannot be read: {error.strerror}") from error


def layout(
    tensors: Mapping[str, tuple[str, Sequence[int]]], *, metadata: Mapping[str, str]
) -> tuple[Header, bytes]:
    """Returns the header of a new file, and its bytes, with which the file begins.

    Args:
        tensors: Dtype and shape by name.
        metadata: Texts by name. They are sorted, so that equal texts give equal bytes; the
            safetensors library writes them in random order.
    """
    names = sorted(tensors, key=lambda name: (_RANKS[tensors[name][0]], name.encode()))
    described: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    position, offsets = 0, {}
    for name in names:
        dtype, shape = tensors[name]
        begin, position = position, position + _num_bytes(dtype, shape)
        offsets[name] = (begin, position)
        described[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [begin, position],
        }
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    start = LENGTH_BYTES + len(text)
    entries = {
        name: Entry(tensors[name][0], tuple(tensors[name][1]), start + begin, start + end)
        for name, (begin, end) in offsets.items()
    }
    header = Header(entries=entries, metadata=metadata, num_bytes=start + position)
    return header, len(text).to_bytes(LENGTH_BYTES, "little") + text


def _num_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Returns the bytes of a tensor; entries of less than a byte are packed."""
    return -(-DTYPE_BITS[dtype] * math.prod(shape) // 8)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A file of which the header is read."""

    path: Path
    num_bytes: int

    def header(self, file: BinaryIO) -> Header:
        beginning = file.read(_BEGINNING_BYTES)
        length = int.from_bytes(beginning[:LENGTH_BYTES], "little")
        if beginning[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
            raise self._error(kind_of(beginning, path=self.path))
        if length > MAX_HEADER_BYTES:
            raise self._error(
                f"is damaged, or no safetensors file: its header would have {length:,} bytes, and "
                f"the format allows {MAX_HEADER_BYTES:,}"
            )
        start = LENGTH_BYTES + length
        if start > self.num_bytes:
            raise self._cut_off(f"at least {start:,}")
        file.seek(LENGTH_BYTES)
        described = self._parsed(file.read(length))
        metadata = described.pop(_METADATA, {})
        if not _is_texts(metadata):
            raise self._error("is damaged: the metadata in its header are no texts")
        entries = {name: self._entry(name, each, start) for name, each in described.items()}
        self._check_places(entries, start)
        return Header(entries=entries, metadata=metadata, num_bytes=self.num_bytes)

    def _parsed(self, text: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(text.decode(), object_pairs_hook=self._without_duplicates)
            for name in parsed if b"\\u" in text else ():
                name.encode()  # half a surrogate pair is no text, and could not be written again
        except (ValueError, RecursionError) as error:
            if isinstance(error, TensorFileError):
                raise
            raise self._error(f"is damaged: its header is no JSON ({error})") from error
        if not isinstance(parsed, dict):
            raise self._error("is damaged: its header is no JSON object")
        return parsed

    def _without_duplicates(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            names = [repr(name) for name, count in counts.items() if count > 1]
            raise self._error(
                f"has several tensors or texts of one name: {first_names(names)}; write it "
                "again with names that differ"
            )
        return result

    def _entry(self, name: str, described: Any, start: int) -> Entry:  # noqa: ANN401 any JSON value
        try:
            dtype, shape = described["dtype"], described["shape"]
            begin, end = described["data_offsets"]
            numbers = (begin, end, *shape)
        except (KeyError, TypeError, ValueError) as error:
            raise self._error(f"is damaged: its header does not describe {name!r}") from error
        if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
            raise self._error(f"holds {name!r} as {dtype}, which is no type that we know")
        if {*map(type, numbers)} != {int} or min(numbers) < 0:
            raise self._error(f"is damaged: its header gives {name!r} no usable shape and place")
        num_bytes = _num_bytes(dtype, shape)
        if end - begin != num_bytes:
            raise self._error(
                f"is damaged: its header gives {name!r}, {dtype} of shape {shape}, "
                f"{end - begin:,} bytes in place of {num_bytes:,}"
            )
        return Entry(dtype, tuple(shape), start + begin, start + end)

    def _check_places(self, entries: Mapping[str, Entry], start: int) -> None:
        """Raises if tensors overlap or leave gaps, or do not end where the file does."""
        position = start
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
            if entry.start != position:
                raise self._error(f"is damaged: {name!r} does not begin where the one before ends")
            position = entry.stop
        if position > self.num_bytes:
            raise self._cut_off(f"{position:,}")
        if position < self.num_bytes:
            raise self._error(
                f"is damaged: it has {self.num_bytes:,} bytes, and its header describes only "
                f"{position:,}; copy or download it again"
            )

    def _cut_off(self, expected: str) -> TensorFileError:
        return self._error(
            f"is cut off: it has {self.num_bytes:,} bytes of {expected}; copy or download it again"
        )

    def _error(self, reason: str) -> TensorFileError:
        return TensorFileError(f"{self.path}: {reason}")


def _is_texts(metadata: object) -> bool:
    return isinstance(metadata, dict) and all(isinstance(each, str) for each in metadata.values())
