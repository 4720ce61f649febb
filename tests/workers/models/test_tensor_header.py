import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from workers.models.tensor_header import TensorFileError, layout, read_header

Write = Callable[[Path], object]


def written(header: object, content: bytes = bytes(8)) -> Write:
    """Returns a function that writes a file with a header of any JSON value, or any bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda path: path.write_bytes(len(text).to_bytes(8, "little") + text + content)


def tensor(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> object:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def save(path: Path, *, num_bytes: int | None = None, more: bytes = b"") -> None:
    save_file({"w": torch.ones(4)}, path)
    path.write_bytes(path.read_bytes()[:num_bytes] + more)


def save_arrays(path: Path) -> None:
    content = io.BytesIO()
    np.savez(content, a=np.ones(3))
    path.write_bytes(content.getvalue())


def index_of(path: Path) -> None:
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    path.write_text(json.dumps({"metadata": {}, "weight_map": names}))


TWICE = b'{"w": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}, "w": 1}'
OVERLAP = {**tensor(), "v": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
PAGE = b"\n <!-- x --><!DOCTYPE HTML><html>Not found</html>"
OLD = {"_use_new_zipfile_serialization": False}

WRONG: dict[str, tuple[Write, str]] = {
    "pointer": (lambda path: path.write_bytes(LFS), "pointer of Git LFS .* `git lfs pull`"),
    "web page": (lambda path: path.write_bytes(PAGE), "is a web page"),
    "checkpoint": (lambda path: torch.save({}, path), "PyTorch checkpoint: write its state dict"),
    "old checkpoint": (lambda path: torch.save({}, path, **OLD), "PyTorch checkpoint of an old"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps([1] * 9)), "another pickle: write its"),
    "arrays": (save_arrays, "is an archive of NumPy arrays"),
    "gguf": (lambda path: path.write_bytes(b"GGUF" + bytes(40)), "is a GGUF file"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(40)), "gzip: unpack it first"),
    "index": (index_of, r"index of a model in 2 files: join model-1.safetensors, model-2"),
    "json": (lambda path: path.write_text('{"hidden_size": 4}'), "is a JSON file"),
    "text": (lambda path: path.write_text("Entry not found"), "is a text.*'Entry not found'"),
    "noise": (lambda path: path.write_bytes(b"\xfe\x01" * 9), "begins with the bytes fe 01"),
    "zeros": (lambda path: path.write_bytes(bytes(4096)), "zeros only, as a download that was"),
    "empty": (lambda path: path.touch(), "has only 0 bytes: copy or download it again"),
    "folder": (lambda path: path.mkdir(), "is a folder, without safetensors files"),
    "pipe": (os.mkfifo, "is a device or a pipe"),
    "dead link": (lambda path: path.symlink_to("gone"), "is a link to gone, which does not exist"),
    "missing": (lambda path: (path.parent / "xx").touch(), r"not exist; did you mean .*/xx\?"),
    "cut in the header": (lambda path: save(path, num_bytes=30), "is cut off: it has 30 bytes of"),
    "cut in a tensor": (lambda path: save(path, num_bytes=-3), "is cut off: it has 77 bytes of 80"),
    "longer": (lambda path: save(path, more=b"xy"), "has 82 bytes, and its header describes only"),
    "large header": (
        lambda path: path.write_bytes((10**9).to_bytes(8, "little") + b"{}"),
        "header would have 1,000,000,000 bytes",
    ),
    "no JSON": (written(b'{"w": }'), "its header is no JSON"),
    "UTF-16": (written(json.dumps(tensor()).encode("utf-16-le")), "its header is no JSON"),
    "surrogate": (written(rb'{"\ud800": {}}'), "its header is no JSON"),
    "twice": (written(TWICE), "several tensors or texts of one name: 'w'"),
    "overlap": (written(OVERLAP), "'v' does not begin where the one before ends"),
    "gap": (written(tensor(offsets=[4, 12])), "'w' does not begin where the one before ends"),
    "size": (written(tensor(offsets=[0, 4])), "F32 of shape .*, 4 bytes in place of 8"),
    "negative": (written(tensor(shape=[-2])), "'w' no usable shape and place"),
    "fraction": (written(tensor(shape=[2.0])), "'w' no usable shape and place"),
    "number for a shape": (written(tensor(shape=2)), "does not describe 'w'"),
    "unknown type": (written(tensor(dtype="F31")), "'w' as F31, which is no type that we know"),
    "list for a type": (written(tensor(dtype=[])), "is no type that we know"),
    "no place": (written({"w": {"dtype": "F32"}}), "does not describe 'w'"),
    "metadata": (written({"__metadata__": {"a": 1}}), "the metadata in its header are no texts"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_that_cannot_be_read_is_said_for_what_it_is(tmp_path: Path, wrong: str) -> None:
    """The message begins with the file's name and says what to do."""
    path = tmp_path / "x"
    write, said = WRONG[wrong]
    write(path)
    with pytest.raises(TensorFileError, match=f"^{path}: .*{said}"):
        read_header(path)


def test_the_names_of_a_folder_help_to_choose(tmp_path: Path) -> None:
    """A folder of a hub has other files besides the weights."""
    for name in ("config.json", "b.safetensors", "a.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(TensorFileError, match=r"such as a.safetensors, b.safetensors$"):
        read_header(tmp_path)


def test_a_header_is_read_as_it_was_laid_out(tmp_path: Path) -> None:
    """Names in any script, scalars and empty tensors have their place."""
    tensors = {"ü\n": ("BF16", (2, 3)), "scalar": ("I64", ()), "none": ("F32", (0, 4))}
    metadata = {"format": "pt", "licence": "MIT"}
    header, beginning = layout(tensors, metadata=metadata)
    (tmp_path / "x").write_bytes(beginning + bytes(header.num_bytes - len(beginning)))
    assert read_header(tmp_path / "x") == header
    assert header.num_bytes == len(beginning) + 12 + 8
