"""Small sets of a user's own, and questions about them."""

import io
from pathlib import Path

import pytest
from PIL import Image

from eval.own.files import FileListing, OwnFiles, OwnTaskError
from eval.own.task import describe_own_task, list_own_files

_NOWHERE = Path("/nowhere")


def png(number: int = 0) -> bytes:
    """Returns a small picture."""
    stream = io.BytesIO()
    Image.new("RGB", (6, 5), (number % 256, 0, 0)).save(stream, "png")
    return stream.getvalue()


def listed(files: OwnFiles) -> FileListing:
    """Returns the files of a task that is usable."""
    fingerprint(files)
    return list_own_files("mine", files=files, root=_NOWHERE)


def fingerprint(files: OwnFiles) -> str:
    """Returns the fingerprint of a task that is usable."""
    return describe_own_task("mine", files=files, root=_NOWHERE).fingerprint


def problems(files: OwnFiles) -> str:
    """Returns the problems of a task that is not usable, one a line."""
    with pytest.raises(OwnTaskError) as caught:
        describe_own_task("mine", files=files, root=_NOWHERE)
    return "\n".join(caught.value.problems)
