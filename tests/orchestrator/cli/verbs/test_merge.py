import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file

from merge.catalogue import PARAMS


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
    "no pair": (["--method", "ties", "--set", "density"], ["--set density: must be NAME=VALUE"]),
    "twice": (
        ["--method", "ties", "--set", "density=1", "--set", "density=1"],
        ["density is set twice"],
    ),
    "prefix": (
        ["--method", "average", "--prefix", "head."],
        ["a.safetensors: holds no", "c.safetensors: holds no"],
    ),
    "task": (["--method", "average", "--task", "4"], ["--task 4: there are 3 experts"]),
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
