"""Users' methods in study files: refused with all their faults, before anything is scheduled."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from orchestrator.cli.command_line import cli
from orchestrator.plan.plan import build_plan
from orchestrator.study.json_schema import study_json_schema
from orchestrator.study.method_labels import method_labels
from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study, read_study

TEMPLATE = (files("orchestrator.study") / "templates" / "my_method.txt").read_text("utf-8")
BROKEN = TEMPLATE.replace("vectors.quantile(0.5, dim=0)", "vectors[0]")
FIELDS: dict[str, Any] = {
    "name": "own",
    "backbone": {"model": "test_efficientnet", "weights": "none", "image_size": 16},
    "tasks": ["mnist_5k", "font_letters", "emoji_objects"],
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 a function
    """Returns a function that writes a study file beside the methods' files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_method.py").write_text(TEMPLATE)
    (tmp_path / "broken.py").write_text(BROKEN)

    def write(*merges: dict[str, Any]) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**FIELDS, "merge": list(merges)}))
        return path

    return write


def test_a_study_is_refused_with_all_faults_of_its_methods(write: Any) -> None:  # noqa: ANN401 as above
    """Nothing is written; each line says what is wrong and what would be right."""
    path = write(
        {"method": "./broken.py:Median"},
        {"method": "./none.py:Mine"},
        {"method": "./my_method.py:ties"},
        {"method": "package:none"},
        {"method": "./my_method.py:Median", "label": "a", "scaling": 99},
        {"method": "./my_method.py:Median", "label": "b", "density": 0.5},
    )
    with pytest.raises(StudyError) as caught:
        read_study(path)
    told = str(caught.value)
    assert "(order): stem.weight: another order of the experts" in told
    assert "./none.py cannot be read: No such file or directory" in told
    assert "ties is the name of a method of mergesweep" in told
    assert "no installed package offers a method 'none'" in told
    assert "merge[4].scaling: 99 is not allowed; expected a number from -10 to 10" in told
    assert "merge[5].density: unknown parameter of Median" in told
    assert not Path("mergesweep-store").exists()
    result = CliRunner().invoke(cli, ["plan", str(path)])
    assert result.exit_code == 2
    assert "6 problems" in result.output


def test_a_study_with_a_method_is_planned(write: Any) -> None:  # noqa: ANN401 as above
    """Labels have the method's name, and ids its digest; recorded methods need no file."""
    path = write(
        {"method": "average"},
        {"method": "./my_method.py:Median"},
        {"method": "./my_method.py:Median", "scaling": {"tune": [0.5, 1]}, "label": "tuned"},
    )
    fields = yaml.safe_load(path.read_text())
    fields["tasks"] = {"names": fields["tasks"], "max_validation": 20}
    path.write_text(yaml.safe_dump(fields))
    study = read_study(path).study
    assert method_labels(study.merge) == ("average", "Median (defaults)", "tuned")
    plan = build_plan(study)
    Path("my_method.py").unlink()
    again = parse_study(path.read_text(), source="it", methods=plan.own_methods)
    assert list(build_plan(again).merges) == list(plan.merges)
    with pytest.raises(StudyError, match=r"my_method\.py cannot be read"):
        parse_study(path.read_text(), source="it")


def test_check_method_prints_a_line_for_each_part(write: Any) -> None:  # noqa: ANN401 as above
    """It ends with 2 for a broken method; `methods` lists a method of a file alone."""
    write({"method": "average"})
    broken = CliRunner().invoke(cli, ["check-method", "./broken.py:Median"])
    assert broken.exit_code == 2, broken.output
    assert "BROKEN order: " in broken.output
    assert "ok     tensors: " in broken.output
    listed = CliRunner().invoke(cli, ["methods", "./my_method.py:Median"])
    assert listed.exit_code == 0, listed.output
    assert "Median" in listed.output
    assert "average" not in listed.output
    refused = CliRunner().invoke(cli, ["check-method", "my_method.py"])
    assert refused.exit_code == 2
    assert "expected ./my_method.py:MyMethod or package:my_method" in refused.output


def test_documentation_has_the_template() -> None:
    """`mergesweep init --from method` writes the file of docs/own-methods.md; editors know it."""
    page = (Path(__file__).parents[3] / "docs/own-methods.md").read_text()
    assert f"```python\n{TEMPLATE}```" in page
    names = study_json_schema()["$defs"]["Merge"]["properties"]["method"]["anyOf"]
    assert len(names) == 2
