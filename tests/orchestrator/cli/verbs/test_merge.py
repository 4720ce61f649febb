import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file

from merge.catalogue import PARAMS, parse_params
from orchestrator.cli.verbs.merge import parse_settings
from orchestrator.cli.verbs.methods import shown_default

ROOT = Path(__file__).parents[4]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Writes a base of zeros and three experts of ones, twos and threes; returns the paths."""
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("base", "a", "b", "c")}
    for number, path in enumerate(paths.values()):
        save_file({"w": torch.full((4,), float(number))}, path)
    return paths


def merge_arguments(files: dict[str, Path], output: Path, *options: str) -> list[str]:
    experts = [str(path) for name, path in files.items() if name != "base"]
    return ["merge", *options, "--base", str(files["base"]), *experts, "-o", str(output)]


def test_merge_writes_the_merge_of_files(
    call: Callable[..., Result], files: dict[str, Path], tmp_path: Path
) -> None:
    """Half of one, two and three on zeros is three; the output's name is printed."""
    output = tmp_path / "out.safetensors"
    arguments = merge_arguments(files, output, "--method", "task_arithmetic", "--set")
    result = call(*arguments[:4], "scaling=5e-1", *arguments[4:])
    assert result.exit_code == 0, result.output
    assert f"wrote {output}" in result.output
    assert load_file(output)["w"].tolist() == [3.0] * 4


WRONG_MERGES = {
    "parameters, all at once": (
        ["--method", "ties", "--set", "density=2", "--set", "lambda=1"],
        ["ties: density=2 is not allowed: a number above 0 to 1", "ties: lambda=1 is not allowed"],
    ),
    "method": (["--method", "tie"], ["method='tie'", "did you mean ties"]),
    "too few experts": (
        ["--method", "consensus_ta", "--set", "min_tasks=4"],
        ["min_tasks=4 experts use, and there are 3: the result would be the base"],
    ),
    "no pair": (["--method", "ties", "--set", "density"], ["--set density: must be NAME=VALUE"]),
    "twice": (
        ["--method", "ties", "--set", "density=1", "--set", "density=1"],
        ["density is set twice"],
    ),
    "prefix": (
        ["--method", "average", "--prefix", "head."],
        ["a.safetensors: holds no", "c.safetensors: holds no"],
    ),
    "task": (["--method", "average", "--task", "4"], ["--task 4: experts are numbered 1 to 3"]),
    "data": (
        ["--method", "fisher", "--set", "images=0"],
        ["fisher: images=0 is not allowed"],
    ),
    "data alone": (
        ["--method", "fisher"],
        ["fisher reads unlabelled train images while it merges; only a study has them"],
    ),
    "number of experts and task at once": (
        ["--method", "slerp", "--task", "1"],
        [
            "slerp merges exactly 2 experts, not 3",
            "slerp makes one model for all tasks, so --task chooses nothing",
        ],
    ),
    "size of heads": (
        ["--method", "average", "--head-dim", "64"],
        ["--head-dim is for --align: add --align, or leave it out"],
    ),
    "no task": (["--method", "emr"], ["emr builds one model per task: choose an expert"]),
    "task of one model": (
        ["--method", "average", "--task", "1"],
        ["average makes one model for all tasks"],
    ),
}


@pytest.mark.parametrize("wrong", WRONG_MERGES)
def test_wrong_merge_is_refused_in_words_and_writes_nothing(
    call: Callable[..., Result], files: dict[str, Path], tmp_path: Path, wrong: str
) -> None:
    """Exit code 2 comes with every problem, and there is no output."""
    options, said = WRONG_MERGES[wrong]
    output = tmp_path / "out.safetensors"
    result = call(*merge_arguments(files, output, *options))
    assert result.exit_code == 2, result.output
    assert all(part in result.output for part in said), result.output
    assert not output.exists()


def test_merge_replaces_a_file_only_with_overwrite(
    call: Callable[..., Result], files: dict[str, Path], tmp_path: Path
) -> None:
    """An existing file stays unless --overwrite is given."""
    output = tmp_path / "out.safetensors"
    output.write_text("precious")
    arguments = merge_arguments(files, output, "--method", "average")
    assert call(*arguments).exit_code == 2
    assert output.read_text() == "precious"
    assert call(*arguments, "--overwrite").exit_code == 0
    assert load_file(output)["w"].tolist() == [2.0] * 4


def test_everything_that_is_wrong_is_said_at_once(
    call: Callable[..., Result], files: dict[str, Path], tmp_path: Path
) -> None:
    """Parameters, inputs and the output are checked before anything is loaded."""
    files["a"].write_text("version https://git-lfs.github.com/spec/v1\n")
    files["b"].unlink()
    output = tmp_path / "gone" / "out.pt"
    result = call(*merge_arguments(files, output, "--method", "ties", "--set", "density=2"))
    assert result.exit_code == 2
    said = ["ties: density=2", "run `git lfs pull`", "b.safetensors: does not exist"]
    said += ["name it", "the folder .* does not exist"]
    lines = result.stderr.splitlines()
    assert len(lines) == len(said), result.stderr
    assert all(re.search(each, line) for each, line in zip(said, lines, strict=True)), lines


def test_a_folder_is_no_output(
    call: Callable[..., Result], files: dict[str, Path], tmp_path: Path
) -> None:
    """A name that ends with a slash would otherwise become a file of that name."""
    arguments = merge_arguments(files, tmp_path / "out", "--method", "average")
    for name, said in (("/new/", "name of a folder; name a file in it"), ("", "is a directory")):
        result = call(*arguments[:-1], f"{tmp_path}{name}")
        assert result.exit_code == 2
        assert said in result.output
    assert not (tmp_path / "new").exists()


def test_of_many_wrong_files_the_first_are_named(
    call: Callable[..., Result], files: dict[str, Path], tmp_path: Path
) -> None:
    """Twenty lines and a count fit a terminal."""
    files |= {str(number): tmp_path / f"gone{number}" for number in range(30)}
    output = tmp_path / "out.safetensors"
    result = call(*merge_arguments(files, output, "--method", "average"))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[20:] == ["and 10 more problems"]


def test_an_output_that_cannot_be_written_is_no_fault_of_the_input(
    call: Callable[..., Result], files: dict[str, Path], tmp_path: Path
) -> None:
    """The exit code is 1."""
    output = tmp_path / "gone" / "out.safetensors"
    result = call(*merge_arguments(files, output, "--method", "average"))
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {output} cannot be written: the folder {output.parent} does not exist; "
        "create the folder first, or choose another one\n"
    )


def test_an_interrupt_ends_a_merge_within_two_seconds(tmp_path: Path) -> None:
    """One merged matrix takes minutes, in which Python runs no handler. Nothing is left."""
    save_file({"w": torch.randn(1600, 3200)}, tmp_path / "base")
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "orchestrator", "merge", "--method", "wudi"]
    command += ["--base", "base", "base", "base", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and len(list(tmp_path.iterdir())) < 3:
            time.sleep(0.05)  # until the temporary file of the output is there
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        sent_s = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - sent_s < 2
    assert process.returncode == 130
    assert errors.strip() == "interrupted"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["base", "tmp"]


def test_methods_lists_every_method_with_needs_parameters_and_paper(
    call: Callable[..., Result],
) -> None:
    """The table has each method's name and each parameter with its default."""
    result = call("methods")
    assert result.exit_code == 0
    for name, params_class in PARAMS.items():
        assert name in result.output
        for field in dataclasses.fields(params_class):
            assert f"{field.name}=" in result.output, (name, field.name)


def test_every_default_that_methods_shows_can_be_set(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`name=default` is accepted by `--set`, and means the default."""
    monkeypatch.setenv("COLUMNS", "200")  # so that no cell is folded
    shown = call("methods").output
    for method, params_class in PARAMS.items():
        for field in dataclasses.fields(params_class):
            text = shown_default(field)
            assert f"{field.name}={text}" in shown
            values = parse_settings([f"{field.name}={text}"])
            assert parse_params(method, values) == params_class(), (method, field.name)


def test_mixed_floats_are_merged_in_the_type_that_is_asked_for(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    """Without the option, the error says how; the result has the type, and integers keep theirs."""
    paths = [tmp_path / name for name in ("b.safetensors", "e.safetensors")]
    steps = torch.tensor(3)
    save_file({"w": torch.zeros(3), "steps": steps}, paths[0])
    save_file({"w": torch.ones(3, dtype=torch.bfloat16), "steps": steps}, paths[1])
    output = tmp_path / "out.safetensors"
    arguments = ("merge", "--method", "average", "--base", paths[0], paths[1], "-o", output)
    result = call(*map(str, arguments))
    assert result.exit_code == 2
    assert f"{paths[1]}: w is bfloat16[3] and the base's float32[3]" in result.output
    assert "--dtype float32 converts them" in result.output
    result = call(*map(str, arguments), "--dtype", "float16")
    assert result.exit_code == 0, result.output
    merged = load_file(output)
    assert merged["w"].dtype == torch.float16
    assert merged["w"].tolist() == [1.0] * 3
    assert merged["steps"].dtype == torch.int64


def test_a_merge_beyond_its_experts_is_written_with_a_warning(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    """Standard error names tensor, method and largest value; 20 tensors are shown."""
    paths = [tmp_path / name for name in ("b.safetensors", "e.safetensors")]
    save_file({f"w{index:02}": torch.zeros(4000) for index in range(22)}, paths[0])
    save_file({f"w{index:02}": torch.ones(4000) for index in range(22)}, paths[1])
    output = tmp_path / "out.safetensors"
    options = ("--method", "dare", "--set", "density=0.001", "--set", "scaling=10")
    arguments = ("merge", *options, "--base", paths[0], paths[1], "-o", output)
    result = call(*map(str, arguments))
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert lines[0].startswith("warning: w00 merged with dare reaches 1e+04, though no value")
    assert len(lines) == 21
    assert lines[-1] == "and 2 more warnings"
    assert float(load_file(output)["w00"].max()) == 10_000


def test_quantised_weights_are_refused_by_name_before_anything_is_written(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    """The message names each file and the codes with their scale."""
    paths = [tmp_path / name for name in ("b.safetensors", "e.safetensors")]
    for number, path in enumerate(paths):
        codes = torch.full((2, 2), number, dtype=torch.int8)
        save_file({"w": codes, "w_scale": torch.ones(2)}, path)
    output = tmp_path / "out.safetensors"
    arguments = ("merge", "--method", "average", "--base", paths[0], paths[1], "-o", output)
    result = call(*map(str, arguments))
    assert result.exit_code == 2
    for path in paths:
        assert f"{path}: w is int8[2, 2], codes of a quantised weight with w_scale" in result.output
    assert not output.exists()
