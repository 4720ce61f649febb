import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from orchestrator.cli.data_table import print_data
from orchestrator.record.data_check import DataCheck, SplitFacts, TaskFacts

Call = Callable[..., Result]


@pytest.fixture
def study_file(tmp_path: Path, study_fields: Callable[..., dict[str, Any]]) -> Path:
    """Writes a study of an embedded task and of 12 own training images in two classes."""
    for split, sizes in (("train", {"oak": 9, "Oak": 3}), ("test", {"oak": 30, "Oak": 30})):
        for name, size in sizes.items():
            for number in range(size):
                path = tmp_path / "trees" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    own = {"trees": {"folder": str(tmp_path / "trees")}}
    fields = study_fields(tasks={"names": ["mnist_5k"], "own": own})
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(fields), "utf-8")
    return path


def test_plan_shows_images_and_classes(call: Call, study_file: Path) -> None:
    """`plan` has a row per task, and warns about classes with hardly an image and alike names."""
    output = call("plan", study_file).stdout
    rows = [line.split() for line in output.splitlines()]
    assert ["mnist_5k", "10", "4,000", "400", "1,000", "100"] in rows
    assert ["trees", "2", "12", "3/6/9", "60", "30"] in rows
    assert "warning: trees: its files have 1 of 2 classes with fewer than 5 training" in output
    assert "warning: trees: class names look alike: 'Oak' and 'oak'" in output
    assert "warning: mnist_5k" not in output


def test_plan_as_json_has_the_same_facts(call: Call, study_file: Path) -> None:
    """`plan --json` has the counts and the warnings."""
    summary = json.loads(call("plan", study_file, "--json").stdout)["summary"]
    trees = summary["data"]["tasks"][1]
    assert (trees["task"], trees["num_classes"]) == ("trees", 2)
    assert trees["train"] == {"num_images": 12, "num_available": 12, "per_class": [3, 6.0, 9]}
    assert len(summary["data"]["warnings"]) == 2


def test_twenty_tasks_and_many_warnings_stay_short_and_narrow() -> None:
    """The table fits 80 columns; ten warnings are shown, and the number of the others."""
    split = SplitFacts(num_images=99_000, num_available=262_144, per_class=(12, 9_350.5, 98_765))
    tasks = tuple(
        TaskFacts(
            task=f"cats_{n:02}",
            num_classes=397,
            train=split,
            test=split,
            left_out=(),
            remarks=(),
            shared=None,
            contradictions=None,
            skipped=None,
        )
        for n in range(20)
    )
    warnings = tuple(f"task {n} has a flaw" for n in range(25))
    console = Console(width=80, record=True, file=io.StringIO())
    print_data(DataCheck(tasks=tasks, warnings=warnings), console=console)
    lines = console.export_text().splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert sum(line.startswith("warning: ") for line in lines) == 10
    assert lines[-1].startswith("and 15 more warnings")
    assert len(lines) <= 36
