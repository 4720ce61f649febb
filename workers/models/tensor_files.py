"""Tensors in safetensors files: written to equal bytes, read one by one from mapped memory."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from workers.specs.ids import canonical_json

METADATA_KEY = "mergesweep"
"""The file's one metadata entry; a JSON text."""


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes that nearly all files hold, by their names in a file's header."""


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file under one prefix, memory-mapped and read one by one.

    A tensor is a view of the mapped file; making one takes ten times as long as finding it again,
    so they are kept. They must not be changed in place.
    """

    def __init__(self, path: Path, *, prefix: str = "") -> None:
        self._file: Any = safe_open(path, framework="pt")  # checks the whole header
        self._bytes = _mapped(path)
        start, header = _header(path)
        names = (name for name in _keys(self._file) if name.startswith(prefix))
        self._entries = {name.removeprefix(prefix): header[name] for name in names}
        self._start = start
        self._prefix = prefix
        self._views: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        view = self._views.get(name)
        if view is None:
            view = self._views[name] = self._view(name)
        return view

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _view(self, name: str) -> Tensor:
        """Cuts a tensor out of the mapped bytes, in a quarter of safetensors' own time."""
        entry = self._entries[name]
        dtype = _DTYPES.get(entry["dtype"])
        start, stop = (self._start + offset for offset in entry["data_offsets"])
        if dtype is None or start % dtype.itemsize:
            tensor: Tensor = self._file.get_tensor(self._prefix + name)
            return tensor
        return self._bytes[start:stop].view(dtype).view(entry["shape"])


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, about: Mapping[str, str]) -> None:
    """Writes tensors as safetensors; equal tensors give equal bytes, whatever their layout.

    Args:
        path: The file, written anew.
        tensors: On any device, in any memory layout.
        about: What the tensors are. One metadata entry holds it all: safetensors writes several
            in random order, which gave equal experts different digests.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={METADATA_KEY: canonical_json(about)})


def _keys(file: Any) -> list[str]:  # noqa: ANN401 safetensors has no types
    return list(file.keys())


def _mapped(path: Path) -> Tensor:
    """Returns a file's bytes, mapped; whoever writes into them writes into a copy."""
    size = path.stat().st_size
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Returns where a file's tensors start, and their dtypes, shapes and places by their names."""
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        return 8 + num_bytes, json.loads(file.read(num_bytes))
