"""The command line: ten broken study files, the help texts, and the modules that a verb loads."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import Result

from orchestrator.cli.command_line import cli
from orchestrator.cli.verbs import plan as plan_verb
from orchestrator.plan.plan import Plan
from workers.calibrate.speeds import Calibration

Fields = Callable[..., dict[str, Any]]
DEFAULTS = {"steps": 10, "lr": 0.01}


@pytest.fixture
def write_study(study_fields: Fields, tmp_path: Path) -> Callable[..., Path]:
    """Writes a study file."""

    def write(**changes: object) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(study_fields(**changes)))
        return path

    return write


@pytest.fixture
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Removes every source of AWS credentials; returns the home directory."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


BROKEN: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown field": (
        {"finetune": {"defaults": {**DEFAULTS, "learning_rate": 0.1}}},
        ("finetune.defaults.learning_rate", "unknown field", "known fields: steps, batch_size"),
    ),
    "wrong type": (
        {"finetune": {"defaults": {"steps": "many"}}},
        ("finetune.defaults.steps", "'many' is not allowed", "expected a whole number"),
    ),
    "negative lr": (
        {"finetune": {"axes": {"lr": [0.1, -0.01]}}},
        ("finetune.axes.lr[1]", "-0.01 is not allowed", "expected more than 0"),
    ),
    "unknown method": (
        {"merge": [{"method": "average"}, {"method": "tise"}]},
        (
            "merge[1].method",
            "'tise' is not allowed",
            "one of average, weighted_average, task_arithmetic",
            "did you mean ties",
        ),
    ),
    "parameter out of range": (
        {"merge": [{"method": "ties", "density": 1.5}]},
        ("merge[0].density", "1.5 is not allowed", "expected a number above 0 to 1"),
    ),
    "unknown task": (
        {"tasks": ["mnist_5k", "font_leters"]},
        (
            "tasks[1]",
            "'font_leters' is not allowed",
            "did you mean 'font_letters'?",
            "mnist_m",
        ),
    ),
    "group larger than the tasks": (
        {"groups": {"size": 4}},
        ("groups.size", "4 is not allowed", "the study has 3 tasks, so a group has at most 3"),
    ),
    "duplicate axis values": (
        {"finetune": {"axes": {"lr": [0.1, 0.01, 0.1]}}},
        ("finetune.axes.lr", "[0.1, 0.01, 0.1] is not allowed", "repeated: 0.1"),
    ),
    "no steps": (
        {"finetune": {"defaults": {"steps": 0}}},
        ("finetune.defaults.steps", "0 is not allowed", "expected 1 or more"),
    ),
    "no credentials": (
        {"store": "s3://some-bucket/studies"},
        (
            "store",
            "'s3://some-bucket/studies' cannot be used",
            "credentials",
            "AWS_ACCESS_KEY_ID",
        ),
    ),
}


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("broken", BROKEN)
def test_broken_study_file_is_refused_in_words_and_starts_nothing(
    call: Callable[..., Result],
    write_study: Callable[..., Path],
    no_credentials: Path,
    broken: str,
    command: str,
) -> None:
    """Exit code 2 comes with file, field, value and allowed values; nothing is written."""
    changes, said = BROKEN[broken]
    path = write_study(**changes)
    started_s = time.process_time()
    result = call(command, path)
    assert result.exit_code == 2, result.output
    assert time.process_time() - started_s < 5
    assert f"{path}: 1 problem\n  {said[0]}: {said[1]}; " in result.output
    for part in said[2:]:
        assert part in result.output
    assert {each.name for each in no_credentials.iterdir()} == {"study.yaml", "here"}
    assert not list((no_credentials / "here").iterdir())


def test_file_with_many_problems_has_them_all_in_one_answer(
    call: Callable[..., Result], write_study: Callable[..., Path]
) -> None:
    """One message lists every problem, so that nobody mends a study in nine rounds."""
    path = write_study(
        finetune={"defaults": {"steps": 0, "learning_rate": 1}, "axes": {"lr": [1, 1, -1]}},
        tasks=["mnist_5k", "font_leters", "mnist_m"],
        groups={"size": 4},
        merge=[{"method": "tise"}, {"method": "ties", "density": 1.5}],
        seed="x",
    )
    result = call("run", path)
    assert result.exit_code == 2
    fields = (
        "finetune.defaults.steps",
        "finetune.defaults.learning_rate",
        "finetune.axes.lr[2]",
        "tasks[1]",
        "groups.size",
        "merge[0].method",
        "merge[1].density",
        "seed",
    )
    assert f"{len(fields)} problems" in result.output
    for field in fields:
        assert f"\n  {field}: " in result.output


def test_missing_study_file_is_bad_input(call: Callable[..., Result], tmp_path: Path) -> None:
    """The message has the path."""
    result = call("run", tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert f"{tmp_path / 'none.yaml'}" in result.output
    assert "No such file" in result.output


@pytest.mark.parametrize("verb", ["resume", "status", "results", "report", "ui"])
@pytest.mark.parametrize("name", ["never-run", "Not A Name"])
def test_study_that_the_store_has_not_is_bad_input(
    call: Callable[..., Result], tmp_path: Path, verb: str, name: str
) -> None:
    """Every verb exits with 2 and names the study; no directory is created for it."""
    result = call(verb, name, "--store", tmp_path / "store")
    assert result.exit_code == 2
    assert repr(name) in result.output
    assert not (tmp_path / "store").exists()


def test_a_file_is_no_name_and_a_name_is_no_file(
    call: Callable[..., Result], write_study: Callable[..., Path]
) -> None:
    """Either mistake is told as such."""
    result = call("results", write_study())
    assert result.exit_code == 2
    assert "is a file; give the study's name" in " ".join(result.output.split())
    result = call("plan", "small")
    assert result.exit_code == 2
    assert "there is no file 'small'; give the study's file" in " ".join(result.output.split())


def test_means_of_experts_are_bad_input(call: Callable[..., Result]) -> None:
    """Experts belong to no group."""
    result = call("results", "study", "--experts", "--means")
    assert result.exit_code == 2
    assert "leave out --experts" in result.output


def test_every_command_says_what_it_does() -> None:
    """Each command has a sentence, and each option too."""
    views = {"plan", "status", "results", "report", "theory", "advise", "ui"}
    assert set(cli.commands) == {
        *views,
        *("prepare", "run", "resume", "track", "verify", "gc", "merge", "methods", "measure"),
        *("export", "score", "init", "schema", "check-method"),
        *("submit", "watch", "logs", "stop"),
    }
    for command in cli.commands.values():
        assert command.help
        assert command.help.split("\n")[0].endswith(".") or ".\n" in command.help
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, (command.name, option.name)


def test_help_lists_commands_and_exit_codes(call: Callable[..., Result]) -> None:
    """`--help` shows a newcomer all commands."""
    result = call("--help")
    assert result.exit_code == 0
    output = " ".join(result.output.split())
    for part in (*cli.commands, "0 done", "2 bad input", "130 interrupted"):
        assert part in output


@pytest.mark.parametrize("verb", sorted(cli.commands))
def test_help_shows_the_first_sentence_of_a_command_whole(
    verb: str, call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sentence of the list is cut off at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    (line,) = [each for each in call("--help").output.splitlines() if each.split()[:1] == [verb]]
    assert line.endswith(".")
    assert not line.endswith("...")


def test_plan_prints_counts_sharing_and_cost(
    call: Callable[..., Result], write_study: Callable[..., Path]
) -> None:
    """A plan says what is run, which steps are shared, how long it takes and what it stores."""
    result = call("plan", write_study(finetune={"axes": {"steps": [10, 20]}}))
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    for part in (
        "study small: 3 tasks",
        "only 3 distinct groups of 2",
        "trials │ 3 │ 0",
        "experts │ 6 │ 0",
        "merge jobs │ 6 │ 0",
        "prefix sharing: 60 optimizer steps instead of 90 (33% saved), 6 merge jobs for 6 table",
        "CPU-core-hours of one worker's time: trials ",
        "in the store: experts 9.0 MB",
    ):
        assert part in output


def test_plan_of_one_merge_speaks_in_the_singular(make_plan: Callable[..., Plan]) -> None:
    """Two tasks make one group, and one method merges it once."""
    line = plan_verb.prefix_sharing_line(make_plan(tasks=["mnist_5k", "font_letters"]))
    assert line == "20 optimizer steps, 1 merge job for 1 table entry"


def test_calibration_that_fits_no_worker_is_reported(
    call: Callable[..., Result],
    write_study: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CPU calibration of a study that uses GPUs is stored and not used."""
    timed = Calibration(device="cpu", device_name="a core", machine="m", at_s=1.0, speeds={"x": 1})
    monkeypatch.setattr(plan_verb, "calibrate", lambda *_, **__: timed)
    study = write_study(resources={"trial": {"gpu": 0.5}, "merge": {"gpu": 0.5}})
    output = call("plan", "--calibrate", study).output
    assert "stored but not used: this machine has a core, and resources.trial gives" in output
    assert "GPU-hours" in output
    assert "times are a guess from the backbone's floating point operations, at 5 TFLOP/s" in output


def test_plan_as_json_is_the_whole_plan(
    call: Callable[..., Result], write_study: Callable[..., Path]
) -> None:
    """The JSON has every cell and the summary."""
    result = call("plan", "--json", write_study())
    plan = json.loads(result.stdout)
    assert (len(plan["trials"]), len(plan["merges"]), len(plan["cells"])) == (3, 3, 3)
    assert plan["summary"]["counts"]["num_experts"] == 3
    assert plan["summary"]["warnings"]


def loaded_after(*arguments: str, directory: Path) -> set[str]:
    """Returns the top-level modules that are loaded when a command ends."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('\\nLOADED', *{m.split('.')[0] for m in sys.modules}))\n"
        "from orchestrator.cli.main import main\n"
        f"sys.argv = ['mergesweep', *{arguments!r}]\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(ended.stdout.rpartition("LOADED ")[2].split())


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    """`--help` answers in a fraction of a second because it loads little."""
    loaded = loaded_after("run", "--help", directory=tmp_path)
    assert "click" in loaded
    assert not loaded & {"ray", "mlflow", "torch", "pyarrow", "pydantic", "rich", "boto3", "numpy"}


def test_plan_loads_neither_ray_nor_mlflow_nor_torch(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    """The driver never loads torch, and planning needs neither cluster nor tracking."""
    loaded = loaded_after("plan", str(write_study()), directory=tmp_path)
    assert "pydantic" in loaded
    assert not loaded & {"ray", "mlflow", "torch", "torchvision", "timm", "boto3", "matplotlib"}


@pytest.mark.parametrize("name", ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_variable_with_a_wrong_address_of_a_cluster_is_named(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The user did not write the address into this command."""
    for each in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "127.0.0.1:6379")
    result = call("logs", "small")
    assert result.exit_code == 2
    assert f"(the address is in the variable {name}; give --address" in result.output
    assert "variable" not in call("logs", "small", "--address", "head:6379").output


LONG = "a" * 300


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("plan", LONG), 2, "there is no file"),
        (("status", f"{LONG}.yaml"), 2, "is not allowed in a store"),
        (("init", LONG), 1, "File name too long"),
        (("init", ""), 2, "it is empty"),
        (("report", "small", "-o", ""), 2, "it is empty"),
    ],
)
def test_name_that_no_file_can_have_is_told_in_words(
    call: Callable[..., Result], words: tuple[str, ...], code: int, said: str
) -> None:
    """The operating system raises errors for names that are too long, or none at all."""
    result = call(*words)
    assert result.exit_code == code
    assert said in result.output
    assert "not foreseen" not in result.output


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"backbone": {"model": "test_resnet", "weights": LONG}}, "backbone.weights"),
        ({"experts": {"mnist_5k": LONG}}, "experts.mnist_5k"),
    ],
)
def test_path_that_is_too_long_is_a_problem_of_its_field(
    call: Callable[..., Result],
    write_study: Callable[..., Path],
    changes: dict[str, Any],
    field: str,
) -> None:
    """It is no file, like any other path that leads to none."""
    result = call("plan", str(write_study(**changes)))
    assert result.exit_code == 2
    assert f"{field}: 'aaaa" in result.output
