"""Tests of the folder of an exported model."""

import json
from pathlib import Path

from torch import nn

from workers.export.model_folder import SHARED, TASKS_FILE, ModelFolder, TaskImages


def test_class_names_that_are_not_utf8_are_written(tmp_path: Path) -> None:
    """Python keeps the bytes of such folders' names as surrogates, which UTF-8 cannot write."""
    classes = ("caf\udce9", "tea")
    folder = ModelFolder(
        path=tmp_path,
        image_size=32,
        images={"drinks": TaskImages(classes=classes, channels=3)},
    )
    folder.add_task("drinks", place=SHARED, head=nn.Linear(4, 2))
    folder.finish()
    read = json.loads((tmp_path / TASKS_FILE).read_text(encoding="utf-8"))
    assert tuple(read["drinks"]["classes"]) == classes
