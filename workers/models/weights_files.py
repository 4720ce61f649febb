"""Reads files of weights in any common form, or says what a file is instead.

The content decides how a file is read, not the end of its name. No pickled code is executed.
"""

import argparse
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from eval.counts import first_names
from workers.models.pretrained_weights import WeightsError
from workers.models.tensor_files import TensorFile
from workers.models.tensor_header import TensorFileError

MAX_DEPTH = 2
"""Mappings inside mappings that are searched for weights. Deeper ones are states of optimizers."""
SAVE_ALONE = "save the weights alone: torch.save(model.state_dict(), 'weights.pth')"

INDEX_SUFFIX = ".index.json"
"""End of the name of the index of a checkpoint in several files."""

_DAMAGED = "is incomplete or damaged ({}); copy or download it again"
_BEGINNING_BYTES = 512
_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"
_TAR, _TAR_AT = b"ustar", 257
"""Archives of the first releases of torch."""
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """The tensors of a file."""

    tensors: Mapping[str, Tensor]
    """Tensors by name."""
    keeps_order: bool
    """Whether the order of the tensors is the order in the model. Safetensors files are sorted."""
    wrapper: str = ""
    """The entry of the file that holds the tensors, such as `state_dict`; empty for the file."""
    beside: tuple[str, ...] = ()
    """Names of tensors beside that entry, such as an accuracy."""


def files_of(path: Path) -> list[Path]:
    """Returns the files of a checkpoint: the file itself, or an index and the files that it names.

    An index is a JSON file with a `weight_map`, as `save_pretrained` of Hugging Face's libraries
    writes it for large models.

    Raises:
        WeightsError: The index cannot be read, names no file, or names one outside its folder.
    """
    if not path.name.endswith(INDEX_SUFFIX):
        return [path]
    try:
        names = json.loads(path.read_bytes())["weight_map"].values()
        parts = sorted({str(name) for name in names})
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: is no index of a checkpoint: no weight_map") from error
    if not parts:
        raise WeightsError(f"{path}: is no index of a checkpoint: its weight_map names no file")
    if indexes := [name for name in parts if name.endswith(INDEX_SUFFIX)]:
        raise WeightsError(f"{path}: names another index in place of a file: {indexes[0]!r}")
    if outside := [name for name in parts if Path(name).name != name]:
        raise WeightsError(f"{path}: names a file outside its folder: {outside[0]!r}")
    return [path, *(path.with_name(name) for name in parts)]


def _read_parts(path: Path) -> WeightsFile:
    """Reads all files that an index names.

    Raises:
        WeightsError: A file cannot be read, or two files hold a tensor of the same name.
    """
    tensors: dict[str, Tensor] = {}
    for part in files_of(path)[1:]:
        found = read_weights(part).tensors
        if twice := next((name for name in found if name in tensors), None):
            raise WeightsError(f"{path}: two of its files hold the tensor {twice}")
        tensors |= dict(found)
    return WeightsFile(tensors=tensors, keeps_order=False)


def read_weights(path: Path) -> WeightsFile:
    """Reads the names and tensors of a file of weights.

    A file that `torch.save` wrote may hold the tensors in an entry, such as `state_dict`, beside
    other values. Two such entries are refused, because nothing says which one is meant. A file
    `*.index.json` stands for the files that it names.

    Raises:
        WeightsError: The file cannot be read or is no checkpoint; the message says what it is.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return _read_parts(path)
    try:
        beginning = _beginning(path)
        if not _is_torch(beginning):
            tensors = TensorFile(path)
            if not tensors:
                raise WeightsError(f"{path}: holds no tensors")
            return WeightsFile(tensors=tensors, keeps_order=False)
        if beginning.startswith(_ZIP) and (fault := _archive_fault(path)):
            raise WeightsError(f"{path}: {fault}")
        return _read_torch(path)
    except TensorFileError as error:
        raise WeightsError(str(error)) from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error


def _beginning(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_BEGINNING_BYTES)


def _is_torch(beginning: bytes) -> bool:
    """Returns whether a file begins like one that torch wrote; not for safetensors files."""
    if beginning[8:9] == b"{":  # the header of a safetensors file may have 0x80 bytes
        return False
    return beginning.startswith((_PICKLE, _ZIP)) or beginning[_TAR_AT:].startswith(_TAR)


def _archive_fault(path: Path) -> str | None:
    """Returns the reason why a ZIP archive is no checkpoint; None if it may be one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        return _DAMAGED.format("its table of contents is missing")
    if "constants.pkl" in names:
        return (
            "is a TorchScript program; save its weights: "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pth')"
        )
    return None if "data.pkl" in names else f"is a ZIP archive of other files; {SAVE_ALONE}"


def _read_torch(path: Path) -> WeightsFile:
    try:
        # Torch would read a file by the end of its name. timm and DeiT save their options, which
        # are plain values, beside the weights.
        with (
            path.open("rb") as file,
            safe_globals([argparse.Namespace]),
            warnings.catch_warnings(action="ignore"),
        ):
            found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: {_pickle_fault(path)}") from error
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{path}: {_DAMAGED.format(reason)}") from error
    if not isinstance(found, Mapping):
        raise WeightsError(
            f"{path}: holds a value of type {type(found).__name__}, not tensors by name; "
            f"{SAVE_ALONE}"
        )
    weights = _unwrapped(found, path=path)
    for name, tensor in weights.tensors.items():
        if tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided:
            kind = "no numbers (meta)" if tensor.is_meta else "a sparse or nested tensor"
            raise WeightsError(
                f"{path}: holds {kind} as {name}; save it after `.to_dense()` or, where the model "
                "was built on the meta device, after loading its weights"
            )
    return weights


def _pickle_fault(path: Path) -> str:
    """Returns the reason why torch refuses to load a file without executing code."""
    try:
        kinds = sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 the file may be damaged in any way
        kinds = []
    if not kinds:
        return f"is damaged, or a pickle that torch.save did not write; {SAVE_ALONE}"
    return (
        f"holds Python objects ({first_names(kinds)}), and loading them could "
        f"run any code; where you trust it, load it and {SAVE_ALONE}"
    )


def _unwrapped(found: Mapping[Any, Any], *, path: Path) -> WeightsFile:
    """Returns the only set of tensors in a mapping."""
    top = {name: each for name, each in found.items() if isinstance(each, Tensor)}
    nested = dict(_nested(found, depth=MAX_DEPTH))
    if len(nested) > 1:
        names = ", ".join(nested)
        raise WeightsError(
            f"{path}: holds several sets of weights ({names}); save the one that you mean in a "
            "file of its own"
        )
    for wrapper, tensors in nested.items():
        return WeightsFile(
            tensors=_detached(tensors), keeps_order=True, wrapper=wrapper, beside=tuple(top)
        )
    if not top:
        inside = first_names(map(repr, found))
        raise WeightsError(
            f"{path}: holds no tensors by name, but {inside or 'nothing'}; {SAVE_ALONE}"
        )
    return WeightsFile(tensors=_detached(top), keeps_order=True)


def _nested(
    found: Mapping[Any, Any], *, depth: int, above: str = ""
) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yields the entries of a mapping, at most `depth` deep, that hold nothing but tensors."""
    for name, each in found.items():
        if not isinstance(name, str) or not isinstance(each, Mapping):
            continue
        place = f"{above}{name}"
        if each and all(isinstance(tensor, Tensor) for tensor in each.values()):
            yield place, each
        elif depth > 1:
            yield from _nested(each, depth=depth - 1, above=f"{place}.")


def _detached(tensors: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    return {str(name): tensor.detach() for name, tensor in tensors.items()}


def shard_remark(path: Path) -> str:
    """Returns a hint for a file that is one of several parts of a checkpoint; else nothing."""
    part = _SHARD.search(path.stem)
    return f"; its name says that it is part {int(part[1])} of {int(part[2])}" if part else ""
