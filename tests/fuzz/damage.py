"""Damage to single files: cut, flipped, emptied, replaced by another kind of file, or removed."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path


def damage(path: Path, rng: random.Random) -> str:
    """Damages one file; returns its name and the damage in words."""
    how = rng.choice([*_CONTENTS, "folder", "broken link", "gone"])
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "broken link":
        path.symlink_to("nowhere")
    elif how != "gone":
        path.write_bytes(_CONTENTS[how](content, rng))
    return f"{path.name}: {how}"


def flipped(content: bytes, rng: random.Random, *, below: int | None = None) -> bytes:
    """Returns the content with one bit changed, within the first `below` bytes if given."""
    changed = bytearray(content)
    if changed:
        changed[rng.randrange(min(len(changed), below or len(changed)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _header(content: bytes, rng: random.Random) -> bytes:
    """Returns a safetensors file with a header that is JSON, but wrong."""
    header = rng.choice(
        [
            b"[]",
            b"{}",
            b'{"a": 1}',
            b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
            b'{"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}',
            b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        ]
    )
    return len(header).to_bytes(8, "little") + header + content[:4]


def _pickle(content: bytes, rng: random.Random) -> bytes:
    del content, rng
    held = io.BytesIO()
    torch.save({"w": torch.ones(2)}, held)
    return held.getvalue()


_CONTENTS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": lambda content, rng: content[: rng.randrange(len(content) + 1)],
    "flipped": flipped,
    "flipped at the start": lambda content, rng: flipped(content, rng, below=400),
    "empty": lambda _content, _rng: b"",
    "zeros": lambda content, _rng: bytes(len(content)),
    "page": lambda _content, _rng: b"<!doctype html><html>401</html>",
    "pointer": lambda _content, _rng: (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n"
    ),
    "pickle": _pickle,
    "archive": lambda _content, _rng: b"PK\x03\x04" + bytes(40),
    "index": lambda _content, _rng: json.dumps(
        {"weight_map": {"w": "model-1.safetensors"}}
    ).encode(),
    "long header": lambda content, _rng: (2**40).to_bytes(8, "little") + content[8:],
    "wrong header": _header,
    "other JSON": lambda _content, rng: rng.choice(
        [b"{}", b"[]", b"null", b'{"id": 1}', b'"text"']
    ),
}
"""Contents that take a file's place, by the damage in words."""
