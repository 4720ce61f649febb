"""Safetensors files that are written deterministically and read tensor by tensor from a mapping."""

import errno
import math
import mmap
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from workers.models.tensor_header import Entry, Header, TensorFileError, layout, read_header
from workers.specs.ids import canonical_json

METADATA_KEY = "mergesweep"
"""Name of the metadata entry with the identity of an artifact, whose value is a JSON text."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
"""Dtypes by their names in a file's header, without the types whose entries have no byte each."""
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
"""The flag of Linux; Python 3.11 has no name for it."""
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file whose names have a prefix, by name without the prefix.

    The file is memory-mapped and each tensor is a view of it, so callers must not change tensors in
    place. Views are kept, because creating one takes ten times as long as finding it again.

    Raises:
        TensorFileError: The file cannot be read, is in another format, is damaged, or has numbers
            of less than a byte.
    """

    def __init__(self, path: Path, *, prefix: str = "", header: Header | None = None) -> None:
        """Maps a file.

        Args:
            path: The file.
            prefix: Tensors with other names are left out, and names are without it.
            header: The file's header, if it has been read already.
        """
        header = header or read_header(path)
        self.metadata = header.metadata
        self._bytes = _mapped(path)
        self._entries = {
            name.removeprefix(prefix): entry
            for name, entry in header.entries.items()
            if name.startswith(prefix)
        }
        for name, entry in self._entries.items():
            if entry.dtype not in _DTYPES:
                raise TensorFileError(
                    f"{path}: holds {name!r} as {entry.dtype}, quantised numbers of less than a "
                    "byte; convert the model to float16 or float32 first"
                )
        self._views: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        view = self._views.get(name)
        if view is None:
            view = self._views[name] = self._view(self._entries[name])
        return view

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_entries(self) -> int:
        """Number of entries of all tensors."""
        return sum(math.prod(entry.shape) for entry in self._entries.values())

    def dtypes_and_shapes(
        self, *, floats: torch.dtype | None = None
    ) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Returns the name of the dtype, and the shape, of each tensor, as `layout` takes them.

        Args:
            floats: The dtype that stands for every floating dtype; None for the file's own.
        """
        return {
            name: (_stands_for(entry.dtype, floats=floats), entry.shape)
            for name, entry in self._entries.items()
        }

    def _view(self, entry: Entry) -> Tensor:
        """Returns a view of the mapped bytes, or a copy where their place is not aligned."""
        dtype = _DTYPES[entry.dtype]
        content = self._bytes[entry.start : entry.stop]
        if entry.start % dtype.itemsize:
            content = content.clone()
        return content.view(dtype).view(entry.shape)


class TensorWriter:
    """Writes the tensors of a new file, in any order, once their types and shapes are known."""

    def __init__(
        self,
        tensors: Mapping[str, tuple[str, tuple[int, ...]]],
        *,
        metadata: Mapping[str, str],
    ) -> None:
        """Lays the file out.

        Args:
            tensors: Dtype and shape of each tensor; see `TensorFile.dtypes_and_shapes`.
            metadata: Texts by name.
        """
        self._header, self._beginning = layout(tensors, metadata=metadata)

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._header.num_bytes

    @property
    def names(self) -> list[str]:
        """Names of the tensors, in the order of their places."""
        return list(self._header.entries)

    def begin(self, file: BinaryIO) -> None:
        """Writes the header."""
        file.write(self._beginning)

    def write(self, name: str, tensor: Tensor, *, file: BinaryIO) -> None:
        """Writes one tensor to its place."""
        entry = self._header.entries[name]
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        assert content.nbytes == entry.stop - entry.start, name
        if file.tell() != entry.start:
            file.seek(entry.start)
        file.write(content.data)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, about: Mapping[str, str]) -> None:
    """Writes tensors to a safetensors file; equal tensors give equal bytes in any memory layout.

    Args:
        path: The file to create or overwrite.
        tensors: Tensors by name, on any device and in any memory layout.
        about: A description of the tensors, the file's only metadata entry.
    """
    write_with_metadata(path, tensors, metadata={METADATA_KEY: canonical_json(about)})


def write_with_metadata(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]
) -> None:
    """Writes tensors to a safetensors file like `write_tensors`, with metadata of any names."""
    described = {name: (_NAMES[each.dtype], tuple(each.shape)) for name, each in tensors.items()}
    writer = TensorWriter(described, metadata=metadata)
    with path.open("wb") as file:
        writer.begin(file)
        for name in writer.names:
            writer.write(name, tensors[name], file=file)


def _stands_for(dtype: str, *, floats: torch.dtype | None) -> str:
    return _NAMES[floats] if floats and _DTYPES[dtype].is_floating_point else dtype


def _mapped(path: Path) -> Tensor:
    """Returns the memory-mapped bytes of a file; writes go to a private copy of the page.

    The kernel reserves no memory for such copies, so a file may be larger than the memory.
    """
    with path.open("rb") as file:
        try:
            mapping = mmap.mmap(
                file.fileno(),
                0,
                flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
            )
        except OSError as error:
            remedy = "; `ulimit -n` raises the limit" if error.errno == errno.EMFILE else ""
            raise TensorFileError(
                f"{path}: cannot be memory-mapped: {error.strerror}{remedy}"
            ) from error
    return torch.frombuffer(mapping, dtype=torch.uint8)
