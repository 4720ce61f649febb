"""The JSON Schema of a study file, the studies that `init` writes, and the editors' line."""

import json
import shlex
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import Result
from own_sets import png

from merge.catalogue import CARDS
from orchestrator.study.first_study import TEMPLATES, schema_text
from orchestrator.study.json_schema import schema_line
from orchestrator.study.reader import parse_study

STUDIES = Path(__file__).parents[3] / "deploy" / "studies"
Fields = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft7Validator:
    """Returns a validator with the schema, which is itself valid."""
    schema = json.loads(schema_text())
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_the_schema_beside_the_studies_is_the_programs_own() -> None:
    """`mergesweep schema > deploy/studies/study.schema.json` writes it."""
    assert (STUDIES / "study.schema.json").read_text() == schema_text()


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_names_the_schema_and_obeys_it(
    path: Path, validator: jsonschema.Draft7Validator
) -> None:
    """The line is relative, so that it holds in any checkout."""
    assert path.read_text().startswith(schema_line())
    validator.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("method", CARDS)
def test_every_method_is_known_with_its_parameters(
    method: str, study_fields: Fields, validator: jsonschema.Draft7Validator
) -> None:
    """A parameter of no method is refused."""
    validator.validate(study_fields(merge=[{"method": method}]))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(study_fields(merge=[{"method": method, "lambda": 1}]))


@pytest.mark.parametrize(
    "changes",
    [
        {"nam": "x"},
        {"merge": [{"method": "tise"}]},
        {"merge": [{"method": "ties", "density": 2}]},
        {"merge": [{"method": "average", "density": 0.2}]},
        {"merge": [{"method": "ties", "density": {"tune": [0.2, 2]}}]},
        {"merge": [{"method": "ties", "scope": {"tune": ["model"]}}]},
        {"finetune": {"defaults": {"steps": "many"}}},
        {"groups": {"size": 0}},
    ],
    ids=str,
)
def test_mistakes_are_underlined(
    changes: dict[str, Any], study_fields: Fields, validator: jsonschema.Draft7Validator
) -> None:
    """Unknown fields and methods, values out of range, parameters of another method."""
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(study_fields(**changes))


def test_shorthands_are_accepted(
    study_fields: Fields, validator: jsonschema.Draft7Validator
) -> None:
    """As the reader accepts them."""
    finetune = {"head": "frozen", "average_weights": "ema"}
    assert validator.is_valid(study_fields(tasks="embedded8", finetune=finetune))


def test_values_to_try_are_accepted(
    study_fields: Fields, validator: jsonschema.Draft7Validator
) -> None:
    """In place of any number of a method."""
    merge = {"method": "ties", "scaling": {"tune": [0.3, 1]}}
    assert validator.is_valid(study_fields(merge=[merge]))


def test_every_field_has_the_comment_of_the_code() -> None:
    """Editors show it."""
    definitions = json.loads(schema_text())["$defs"]
    assert definitions["Groups"]["properties"]["count"]["description"].startswith("Groups of each")
    density = next(
        each["then"]["properties"]["density"]
        for each in definitions["Merge"]["allOf"]
        if each["if"]["properties"]["method"]["const"] == "ties"
    )
    assert density["description"] == "a number above 0 to 1"


def write_images(folder: Path) -> None:
    """Writes a task of two classes."""
    for number, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (folder / place).mkdir(parents=True)
        (folder / place / "1.png").write_bytes(png(number))


@pytest.mark.parametrize("template", TEMPLATES)
def test_init_writes_a_study_that_can_be_planned(
    template: str, call: Callable[..., Result], tmp_path: Path
) -> None:
    """With its schema beside it; nothing is overwritten."""
    result = call("init", "--from", template)
    assert result.exit_code == 0, result.output
    assert Path("study.schema.json").read_text() == schema_text()
    text = Path("study.yaml").read_text()
    assert text.startswith(schema_line())
    for task in ("pets", "digits"):
        write_images(tmp_path / task)
        text = text.replace(f"/data/{task}", str(tmp_path / task))
    text = text.replace("    flowers: {parquet: /data/flowers}\n", "")
    assert parse_study(text, source="study.yaml").merge
    again = call("init", "--from", template)
    assert again.exit_code == 2
    assert "study.yaml exists" in again.output


def test_init_prints_a_command_that_a_shell_understands(call: Callable[..., Result]) -> None:
    """The file's name is quoted where it needs quotes."""
    result = call("init", "my study (1).yaml")
    assert result.exit_code == 0, result.output
    command = result.output.splitlines()[-1].removeprefix("next: ")
    assert shlex.split(command) == ["mergesweep", "plan", "my study (1).yaml"]


def test_init_of_a_method_elsewhere_prints_a_command_that_finds_it(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study names its method relative to the folder of the command, which goes there."""
    folder = Path("my studies")
    folder.mkdir()
    result = call("init", "--from", "method", folder / "a.yaml")
    assert result.output.startswith("wrote my studies/a.yaml, my_method.py, and ")
    assert result.output.splitlines()[-1] == "next: cd 'my studies' && mergesweep plan a.yaml"
    monkeypatch.chdir(folder)
    assert parse_study(Path("a.yaml").read_text(), source="a.yaml").merge


@pytest.mark.parametrize(("template", "name"), [("demo", "demo"), ("laws", "embedded-laws")])
def test_templates_are_the_studies_of_the_repository(template: str, name: str) -> None:
    """The package holds a copy, because installations have no deploy/."""
    text = (files("orchestrator.study") / "templates" / f"{template}.yaml").read_text("utf-8")
    assert schema_line() + text == (STUDIES / f"{name}.yaml").read_text()
