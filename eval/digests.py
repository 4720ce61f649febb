"""The sha256 of bytes and of files, as 64 hexadecimal digits."""

import hashlib
from pathlib import Path


def sha256_of_bytes(content: bytes) -> str:
    """Returns the sha256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Returns the sha256 of a file's content, which is read once and never held whole in memory.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
