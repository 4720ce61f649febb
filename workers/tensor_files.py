"""Tensors in safetensors files: written to equal bytes, read one by one from mapped memory."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from workers.ids import canonical_json

METADATA_KEY = "mergesweep"
"""The file's one metadata entry; a JSON text."""


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file under one prefix, memory-mapped and read one by one.

    A tensor is a view of the mapped file; making one takes 30 times as long as finding it again, so
    they are kept. They must not be changed in place.
    """

    def __init__(self, path: Path, *, prefix: str = "") -> None:
        self._file: Any = safe_open(path, framework="pt")
        self._prefix = prefix
        names = (name for name in _keys(self._file) if name.startswith(prefix))
        self._names = dict.fromkeys(name.removeprefix(prefix) for name in names)
        self._views: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        view = self._views.get(name)
        if view is None:
            if name not in self._names:
                raise KeyError(name)
            view = self._views[name] = self._file.get_tensor(self._prefix + name)
        return view

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


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
