import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_sets import png

WriteTable = Callable[..., None]


@pytest.fixture
def write_table(tmp_path: Path) -> WriteTable:
    """Returns a function that writes a table with labels, and with class names of integers."""

    def write(name: str, labels: object, *, names: object = None) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        column = labels if isinstance(labels, pa.Array) else pa.array(labels)
        cells = pa.array([png(n) for n in range(len(column))], pa.binary())
        table = pa.table({"image": cells, "label": column})
        if names is not None:
            features = {"label": {"names": names, "_type": "ClassLabel"}}
            metadata = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": metadata})
        if path.suffix.lower() == ".arrow":
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
                out.write_table(table)
        else:
            pq.write_table(table, path)

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Makes a folder of two classes with two images of each per split."""
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for number in range(2):
                path = tmp_path / "pets" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(number))
    return tmp_path / "pets"
