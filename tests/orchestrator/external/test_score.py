"""Files of weights, scored in the tables of a small study that was really run."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import timm
import torch
from click.testing import CliRunner, Result
from in_process import small_study
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.cli.command_line import cli
from orchestrator.record.folder import EXTERNAL_FILE
from orchestrator.run.opened import OpenedStudy
from workers.artifacts.layout import Layout

SETTINGS = ("lr=0.01", "lr=0.02")
METHODS = ("average", "ties")


class Made(NamedTuple):
    """The study, and our own exported average."""

    opened: OpenedStudy
    store: Path
    weights: Path


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Runs the study once for all tests of this module."""
    root = tmp_path_factory.mktemp("score")
    with small_study(
        root,
        tasks={
            "names": ["emoji_objects", "font_letters", "mnist_5k"],
            "max_train": 32,
            "max_test": 24,
        },
        finetune={
            "defaults": {"steps": 6, "batch_size": 8, "lr": 0.01},
            "axes": {"lr": [0.01, 0.02]},
        },
        groups={"size": 2},
        merge=[{"method": method, "label": method} for method in METHODS],
    ) as (opened, _):
        output = str(root / "out")
        words = ["--setting", SETTINGS[0], "--method", "average", "--group", "2x01", "-o", output]
        CliRunner().invoke(cli, ["export", "small", *words, "--store", opened.store_url])
        yield Made(opened, root / "store", root / "out" / "model.safetensors")


@pytest.fixture
def store(made_once: Made, tmp_path: Path) -> Path:
    """Returns the test's own copy of the study's store."""
    return shutil.copytree(made_once.store, tmp_path / "store")


@pytest.fixture
def call(store: Path) -> Callable[..., Result]:
    """Calls a verb on the study."""

    def run(verb: str, *words: object) -> Result:
        return CliRunner().invoke(cli, [verb, "small", *map(str, words), "--store", str(store)])

    return run


@pytest.fixture
def weights(made_once: Made) -> dict[str, Tensor]:
    """Returns the tensors of the exported average."""
    return dict(load_file(made_once.weights))


def rows_of(store: Path, **wanted: str | None) -> list[dict[str, Any]]:
    """Returns rows of the stored result table, in its order."""
    table = pq.read_table(store / "studies" / "small" / "results.parquet")
    return [row for row in table.to_pylist() if wanted.items() <= row.items()]


SCORES = ("accuracy", "loss", "normalized_accuracy", "num_examples", "expert_id", "lr", "held_out")


def test_our_own_exported_merge_scores_what_it_scored_as_a_merge(
    made_once: Made, store: Path, call: Callable[..., Result]
) -> None:
    """All columns of its rows are equal to the bit; nothing else in the table changes."""
    assert call("results", "--format", "csv").exit_code == 0
    result = call("score", made_once.weights, "--setting", SETTINGS[0], "--group", "2x01")
    assert result.exit_code == 0, result.output
    place = {"setting": SETTINGS[0], "group": "2x01"}
    external, own = rows_of(store, method="out", **place), rows_of(store, method="average", **place)
    assert len(external) == 4
    for ours, theirs in zip(own, external, strict=True):
        assert {name: ours[name] for name in SCORES} == {name: theirs[name] for name in SCORES}
        assert ours["external"] is None
        assert len(theirs["external"]) == 64
        assert (theirs["data_use"], theirs["merge_id"]) == ("unknown", None)
    assert len(rows_of(store)) == len(rows_of(store, external=None)) + 4
    manifest = json.loads((store / "studies" / "small" / EXTERNAL_FILE).read_bytes())
    merge_id = own[0]["merge_id"]
    sums = json.loads((store / Layout.manifest("merge", merge_id)).read_bytes())["metrics"]["tasks"]
    assert manifest["scores"][0]["tasks"] == sums


def test_external_models_are_compared_in_their_groups_and_nothing_else_changes(
    made_once: Made, call: Callable[..., Result], tmp_path: Path
) -> None:
    """Other families keep all their groups; report, status and verify know the scores."""
    before = json.loads(call("results", "--pairs", "--format", "json").stdout)
    assert call("score", made_once.weights, "--setting", SETTINGS[0]).exit_code == 0
    after = json.loads(call("results", "--pairs", "--format", "json").stdout)
    assert after[: len(before)] == before
    assert {row["family"] for row in after[len(before) :]} == {f"{SETTINGS[0]}, with out"}
    assert all("out" in (row["best"], row["other"]) for row in after[len(before) :])
    assert {row["num_groups"] for row in after[len(before) :]} == {3}
    assert "out" in call("results").stdout
    assert call("report", "-o", tmp_path / "report.html").exit_code == 0
    assert "Models of other tools" in (tmp_path / "report.html").read_text()
    verified = call("verify", "--dry-run")
    assert verified.exit_code == 0, verified.output


def test_the_same_file_again_is_joined_and_another_one_needs_a_label(
    made_once: Made,
    store: Path,
    call: Callable[..., Result],
    weights: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    """Scores are never replaced by those of another file."""
    for group in ("2x00", "2x01", "2x00"):
        words = ("--setting", SETTINGS[0], "--group", group)
        assert call("score", made_once.weights, *words).exit_code == 0
    assert {row["group"] for row in rows_of(store, method="out")} == {"2x00", "2x01"}
    other = tmp_path / "out.pth"
    torch.save({name: tensor * 0.5 for name, tensor in weights.items()}, other)
    result = call("score", other, "--setting", SETTINGS[0])
    assert result.exit_code == 2
    assert "'out' is the label of another file" in result.output
    assert call("score", other, "--setting", SETTINGS[0], "--label", "halved").exit_code == 0
    assert len(rows_of(store, method="halved")) == 3 * 4


def test_every_form_of_file_scores_alike(
    store: Path, call: Callable[..., Result], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    """Safetensors, a pickle of tensors, a whole model with classifier, and parts with an index."""
    names = sorted(weights)
    (tmp_path / "parts").mkdir()
    parts = {f"model-{n}-of-2.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for part, mine in parts.items():
        save_file({name: weights[name] for name in mine}, tmp_path / "parts" / part)
    index = {"weight_map": {name: part for part, mine in parts.items() for name in mine}}
    (tmp_path / "parts" / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.save({"state_dict": weights}, tmp_path / "pickle.pth")
    whole = timm.create_model("test_resnet", num_classes=7)
    whole.load_state_dict(weights, strict=False)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    files = [tmp_path / name for name in ("parts", "pickle.pth", "whole.safetensors")]
    result = call("score", *files, "--setting", SETTINGS[0], "--group", "2x01")
    assert result.exit_code == 0, result.output
    assert "left out, because a base has no classifier: fc.bias, fc.weight" in result.output
    losses = {
        name: [row["loss"] for row in rows_of(store, method=name)]
        for name in ("parts", "pickle", "whole")
    }
    place = {"setting": SETTINGS[0], "group": "2x01", "method": "average"}
    own = [row["loss"] for row in rows_of(store, **place)]
    assert losses == dict.fromkeys(losses, own)


def kernel_of(weights: dict[str, Tensor]) -> str:
    """Returns the name of the first kernel."""
    return next(name for name, tensor in weights.items() if tensor.ndim == 4)


def test_files_that_do_not_fit_are_refused_in_words(
    call: Callable[..., Result], weights: dict[str, Tensor], store: Path, tmp_path: Path
) -> None:
    """All of them at once; with a good file beside them, nothing is scored at all."""
    kernel = kernel_of(weights)
    other = timm.create_model("test_vit", num_classes=0).state_dict()
    bad = {
        "missing": {name: tensor for name, tensor in weights.items() if name != kernel},
        "extra": {**weights, "lora.weight": torch.ones(1)},
        "shape": {**weights, kernel: weights[kernel][:, :1].clone()},
        "infinite": {**weights, kernel: weights[kernel] * torch.nan},
        "other": other,
    }
    said = {
        "missing": f"it lacks 1 of the {len(weights)} tensors of test_resnet ({kernel})",
        "extra": "does not have 1 of its",
        "shape": f"expected {tuple(weights[kernel].shape)}",
        "infinite": f"hold NaN or infinite values: {kernel}",
        "other": "is not a checkpoint of test_resnet",
    }
    for name, tensors in {"good": weights, **bad}.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    files = [tmp_path / f"{name}.safetensors" for name in ("good", *bad)]
    result = call("score", *files, "--setting", SETTINGS[0])
    assert result.exit_code == 2
    lines = {
        name: next(line for line in result.stderr.splitlines() if f"{name}.safetensors" in line)
        for name in bad
    }
    assert all(said[name] in line for name, line in lines.items()), lines
    assert not (store / "studies" / "small" / EXTERNAL_FILE).exists()


def test_names_that_the_study_lacks_are_answered_with_those_it_has(
    made_once: Made, call: Callable[..., Result], store: Path, tmp_path: Path
) -> None:
    """Settings, groups, labels and heads; a damaged file of scores is withdrawn by verify."""
    file = made_once.weights
    assert "--setting; the study's settings: lr=0.01, lr=0.02" in call("score", file).output
    assert "its settings: lr=0.01" in call("score", file, "--setting", "x").output
    words = ("--setting", SETTINGS[0])
    assert "its groups: 2x00, 2x01" in call("score", file, *words, "--group", "4x00").output
    assert "label of a method" in call("score", file, *words, "--label", "ties").output
    assert "cannot be read" in call("score", tmp_path / "none.pth", *words).output
    (tmp_path / "empty").mkdir()
    assert "a folder without model.safetensors" in call("score", tmp_path / "empty", *words).output
    assert call("score", file, *words).exit_code == 0
    (store / "studies" / "small" / EXTERNAL_FILE).write_text("{}")
    assert call("results").exit_code == 2
    assert call("verify").exit_code == 1
    assert call("results").exit_code == 0
    for manifest in (store / "artifacts" / "expert").glob("*/*/manifest.json"):
        manifest.unlink()
    result = call("score", file, *words)
    assert result.exit_code == 2
    assert "have no head at lr=0.01" in result.output
