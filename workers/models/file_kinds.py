"""Says which file somebody has who expected a safetensors file, and how to get one."""

import difflib
import json
import re
from pathlib import Path

from eval.counts import first_names

_CONVERT = (
    "write its state dict, from torch.load(FILE, weights_only=True), to a safetensors file with "
    "safetensors.torch.save_file"
)
_PICKLE = f"is a PyTorch checkpoint of an old format, or another pickle: {_CONVERT}"
_BEGINNINGS = {
    b"version https://git-lfs.github.com/spec/": "is a pointer of Git LFS in place of the weights: "
    "run `git lfs pull` in its repository",
    b"# xet version": "is a pointer of Git Xet in place of the weights: run `git xet pull` or "
    "`git lfs pull` in its repository",
    b"GGUF": "is a GGUF file of llama.cpp, not a safetensors file: download the model in that "
    "format",
    b"\x89HDF\r\n\x1a\n": "is an HDF5 file, as Keras writes, not a safetensors file",
    b"\x93NUMPY": "is an array of NumPy, not a safetensors file",
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it first",
    b"\xfd7zXZ\x00": "is compressed with xz: unpack it first",
    b"BZh": "is compressed with bzip2: unpack it first",
    b"%PDF": "is a PDF document, not a safetensors file",
    b"\x89PNG": "is an image, not a safetensors file",
    b"\xff\xd8\xff": "is an image, not a safetensors file",
    **dict.fromkeys((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), _PICKLE),
}
"""Sentences about files, by the bytes that they begin with."""
_WEB_PAGE = re.compile(
    rb"\s*(<!--.*?-->\s*)*<(!doctype html|html|head|\?xml)", re.IGNORECASE | re.DOTALL
)
_TAR = slice(257, 262)
_LEAST_BYTES = 10
"""Size of a safetensors file without any tensor."""
_MAX_INDEX_BYTES = 1 << 24
_SHOWN = 3


def kind_of(beginning: bytes, *, path: Path) -> str:
    """Returns the kind of a file that is no safetensors file, and a remedy.

    Args:
        beginning: The file's first bytes, some hundred; none if it cannot be opened as a file.
        path: The file, a folder, or anything else with a path.
    """
    if not path.is_file():
        return _no_file(path)
    if len(beginning) < _LEAST_BYTES:
        return f"has only {len(beginning)} bytes: copy or download it again"
    if not beginning.strip(b"\0"):
        return "begins with zeros only, as a download that was not finished: download it again"
    for start, kind in _BEGINNINGS.items():
        if beginning.startswith(start):
            return kind
    if _WEB_PAGE.match(beginning):
        return (
            "is a web page, such as a server sends in place of a file that it cannot find or that "
            "needs a login: download the file again"
        )
    return _other_kind(beginning, path=path)


def missing_file(path: Path) -> str:
    """Returns that a file does not exist, with the names nearby that it may have meant."""
    if path.is_symlink():
        return f"is a link to {path.readlink()}, which does not exist"
    if not path.parent.is_dir():
        return f"does not exist, and neither does its folder {path.parent}"
    try:
        names = [each.name for each in path.parent.iterdir()]
    except OSError:
        return "does not exist"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"does not exist; did you mean {path.with_name(near[0])}?" if near else "does not exist"


def _other_kind(beginning: bytes, *, path: Path) -> str:
    if beginning.lstrip()[:1] in {b"{", b"["}:
        return _json(path)
    if beginning.startswith(b"PK\x03\x04"):
        return _zip(beginning)
    if beginning[_TAR] == b"ustar":
        return _PICKLE
    if _is_text(beginning):
        shown = beginning[:40].decode(errors="ignore")
        return f"is a text, not a safetensors file; it begins with {shown!r}"
    return f"is not a safetensors file; it begins with the bytes {beginning[:16].hex(' ')}"


def _no_file(path: Path) -> str:
    if not path.is_dir():
        return "is a device or a pipe, and is read more than once: give a file"
    try:
        names = sorted(each.name for each in path.iterdir() if each.suffix == ".safetensors")
    except OSError:
        names = []
    if not names:
        return "is a folder, without safetensors files in it: give a file"
    return f"is a folder: give a file of it, such as {first_names(names, most=_SHOWN)}"


def _json(path: Path) -> str:
    """Tells the index of a model in several files from other JSON files."""
    try:
        with path.open("rb") as file:
            index = json.loads(file.read(_MAX_INDEX_BYTES))
        files = sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "is a JSON file, not a safetensors file"
    shown = first_names(files, most=_SHOWN)
    if len(files) == 1:
        return f"is the index of a model in one file: give {shown}"
    return (
        f"is the index of a model in {len(files)} files: join {shown} into one file with "
        "safetensors.torch.load_file and save_file, and give that one"
    )


def _zip(beginning: bytes) -> str:
    if b"data.pkl" in beginning or b"/version" in beginning or b"/.format" in beginning:
        return f"is a PyTorch checkpoint: {_CONVERT}"
    if b".npy" in beginning:
        return "is an archive of NumPy arrays, not a safetensors file"
    return f"is a zip archive, such as a PyTorch checkpoint: {_CONVERT}"


def _is_text(beginning: bytes) -> bool:
    try:
        text = beginning.decode()
    except UnicodeDecodeError as error:
        if error.start < len(beginning) - 4:  # a character may be cut at the end
            return False
        text = beginning[: error.start].decode()
    return all(each.isprintable() or each.isspace() for each in text)
