"""Own tasks in Parquet and Arrow files with random faults, for `plan` and `prepare`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from case import Case
from damage import damage
from image_folders import commands_and_tasks, encoded, write_study

if TYPE_CHECKING:
    import random
    from pathlib import Path

FILES = (
    ("train.parquet", "test.parquet"),
    ("train.parquet", "validation.parquet"),
    ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test.parquet"),
    ("train.arrow", "test.arrow"),
    ("train.parquet", "test.arrow"),
    ("train.parquet", "train.arrow", "test.parquet"),
    ("train.parquet", "test.parquet", "val.parquet"),
    ("train.parquet",),
    ("data.parquet",),
)
"""The files of a task; the first four are complete."""
LABELS = (
    "named",
    "texts",
    "dictionary",
    "integers",
    "small integers",
    "floats",
    "nulls",
    "lists",
    "booleans",
    "negative",
    "bytes",
)
IMAGES = (
    "bytes",
    "struct",
    "struct",
    "nulls",
    "texts",
    "no bytes",
    "empty",
    "damaged",
    "large",
    "lists",
)


def make(rng: random.Random, folder: Path) -> Case:
    """Writes a study of two tables; labels, images and files vary, sometimes within one task."""
    own: dict[str, dict[str, object]] = {}
    about: list[str] = []
    wildness = rng.choice([0.0, 0.0, 0.1, 0.4])
    commands, tasks = commands_and_tasks(rng)
    for task in tasks:
        (folder / task).mkdir()
        own[task] = {"parquet": f"./{task}"}
        labels = rng.choice(LABELS if rng.random() < wildness else LABELS[:3])
        images = rng.choice(IMAGES if rng.random() < wildness else IMAGES[:3])
        about.append(f"{task}: labels {labels}, images {images}")
        for name in rng.choice(FILES if rng.random() < wildness else FILES[:4]):
            if rng.random() < wildness / 2:
                labels = rng.choice(LABELS)
                about.append(f"{task}/{name}: labels {labels}")
            _write(folder / task / name, _table(labels, images, wildness=wildness, rng=rng), rng)
        if rng.random() < wildness:
            about.append(damage(rng.choice(sorted((folder / task).iterdir())), rng))
        if rng.random() < wildness:
            own[task] |= rng.choice(
                [
                    {"image": "picture"},
                    {"label": "class"},
                    {"classes": ["cat", "dog"]},
                    {"classes": []},
                    {"classes": ["dog", "cat", "owl"]},
                    {"channels": 1},
                    {"channels": 2},
                ]
            )
    write_study(folder, own=own, rng=rng)
    return Case(commands=commands, about=about)


def _table(labels: str, images: str, *, wildness: float, rng: random.Random) -> pa.Table:
    is_wild = rng.random() < wildness
    rows = rng.choice([0, 1, 4]) if is_wild else 6
    names = rng.choice([["dog", "cat"], ["cat", "cat"], ["cat"], []]) if is_wild else ["cat", "dog"]
    numbers = [number % 2 for number in range(rows)]
    texts = [["cat", "dog"][number] for number in numbers]
    label: Any = {
        "integers": lambda: pa.array(numbers, pa.int64()),
        "named": lambda: pa.array(numbers, pa.int64()),
        "small integers": lambda: pa.array(numbers, pa.uint8()),
        "texts": lambda: pa.array(texts, pa.string()),
        "dictionary": lambda: pa.array(texts, pa.string()).dictionary_encode(),
        "floats": lambda: pa.array([float(number) for number in numbers], pa.float64()),
        "nulls": lambda: pa.array([None, *numbers][:rows], pa.int64()),
        "lists": lambda: pa.array([[number] for number in numbers], pa.list_(pa.int64())),
        "booleans": lambda: pa.array([bool(number) for number in numbers], pa.bool_()),
        "negative": lambda: pa.array([-1] * rows, pa.int64()),
        "bytes": lambda: pa.array([text.encode() for text in texts], pa.binary()),
    }[labels]()
    table = pa.table({"image": _images(images, rows, rng), "label": label})
    if labels == "named":
        feature = {"names": names, "_type": "ClassLabel"}
        about = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
        text = rng.choice(["{", "[]", json.dumps({"info": None})]) if is_wild else json.dumps(about)
        table = table.replace_schema_metadata({"huggingface": text})
    return table


def _images(images: str, rows: int, rng: random.Random) -> pa.Array:
    cells = [encoded(rng) for _ in range(rows)]
    if images == "struct":
        return pa.array(
            [{"bytes": cell, "path": f"{number}.png"} for number, cell in enumerate(cells)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    if images == "no bytes":
        return pa.array(
            [{"bytes": None, "path": "x.png"}] * rows,
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    if images == "texts":
        return pa.array(["x.png"] * rows, pa.string())
    if images == "lists":
        return pa.array([[1, 2, 3]] * rows, pa.list_(pa.uint8()))
    if images == "large":
        return pa.array(cells, pa.large_binary())
    if images == "nulls":
        cells = [None, *cells][:rows]  # type: ignore[list-item]
    if images == "empty":
        cells = [b"", *cells][:rows]
    if images == "damaged":
        cells = [cell[: rng.randrange(len(cell))] for cell in cells]
    return pa.array(cells, pa.binary())


def _write(path: Path, table: pa.Table, rng: random.Random) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rng.choice([1, 2, 100]))
        return
    opener = rng.choice([pa.ipc.new_file, pa.ipc.new_stream])
    with opener(str(path), table.schema) as writer:
        writer.write_table(table)
