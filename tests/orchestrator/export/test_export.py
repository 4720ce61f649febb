"""Exports of a small study that was really run, used by a process that has only timm and torch."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from click.testing import CliRunner, Result
from huggingface_hub import ModelCard
from in_process import small_study
from PIL import Image
from safetensors.torch import load_file

from orchestrator.cli.command_line import cli
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest
from workers.workspace import Workspace

GROUP = "2x00"
METHODS: list[dict[str, Any]] = [
    {"method": "average", "label": "shared"},
    {"method": "average", "label": "own statistics", "batch_norm": "per_task"},
    {"method": "emr", "label": "masks", "batch_norm": "recalibrate"},
    {"method": "average", "label": "surgery", "surgery": {"steps": 20}},
    {"method": "magmax", "label": "tuned", "scaling": {"tune": [0.3, 1.0]}},
    {
        "method": "magmax",
        "label": "tuned together",
        "scaling": {"tune": [0.3, 1.0]},
        "tuned_over": "study",
    },
]
LABELS = [str(each["label"]) for each in METHODS]
RUNNER = """
import json, sys
for name in [name for name in sys.modules if name.startswith(("workers", "orchestrator"))]:
    raise AssertionError(name)
for code, arguments in json.load(open(sys.argv[1])):
    sys.argv = ["classify.py", *arguments]
    exec(compile(code, "classify.py", "exec"), {})
assert not {"workers", "orchestrator", "merge", "eval"} & set(sys.modules)
"""


class Made(NamedTuple):
    """The study, and a workspace on its store."""

    opened: OpenedStudy
    workspace: Workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Runs the study once for all tests of this module."""
    root = tmp_path_factory.mktemp("export")
    with small_study(
        root,
        tasks={
            "names": ["emoji_objects", "mnist_5k"],
            "max_train": 32,
            "max_test": 24,
            "max_validation": 16,
        },
        finetune={
            "defaults": {"steps": 12, "batch_size": 8, "lr": 0.01},
            "axes": {"lr": [0.01, 0.02]},
        },
        merge=METHODS,
        baselines={"multi_task": {"settings": "defaults"}},
    ) as made:
        yield Made(*made)


@pytest.fixture
def export(made: Made, tmp_path: Path) -> Callable[..., Result]:
    """Exports from the study into a folder `out` of the test."""

    def run(*words: str, output: str = "out") -> Result:
        where = ("-o", str(tmp_path / output), "--store", made.opened.store_url)
        return CliRunner().invoke(cli, ["export", "small", *words, *where])

    return run


def row_of(made: Made, *, method: str, task: str, setting: str = "lr=0.01") -> dict[str, Any]:
    """Returns a row of the result table."""
    rows = StudyResults.of(made.opened.ledger.committed()).own_rows.to_pylist()
    wanted = {"method": method, "task": task, "setting": setting}
    return next(row for row in rows if wanted.items() <= row.items())


def program_of(folder: Path) -> str:
    """Returns the program in a model card."""
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def write_images(made: Made, *, task: str, folder: Path) -> tuple[list[str], list[str]]:
    """Writes a task's test images as PNG files; returns their paths and classes."""
    split = made.workspace.split(
        next(d.id for d in made.opened.plan.datasets if d.task == task), "test"
    )
    classes = made.opened.plan.sources[task].task.classes
    folder.mkdir()
    paths = []
    for index, image in enumerate(next(split.batches(len(split))).images):
        paths.append(str(folder / f"{index:03}.png"))
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(paths[-1])
    return paths, [classes[label] for label in split.labels]


def test_the_cards_program_answers_as_the_study_did_to_the_image(
    made: Made, export: Callable[..., Result], tmp_path: Path
) -> None:
    """For all kinds of merges, multi-task models and experts; nothing of ours is loaded."""
    tasks = made.opened.plan.groups[0].tasks
    images = {task: write_images(made, task=task, folder=tmp_path / task) for task in tasks}
    calls: list[tuple[str, list[str]]] = []
    expected = []
    for label in (*LABELS, "multi-task"):
        result = export("--setting", "lr=0.01", "--method", label, output=label)
        assert result.exit_code == 0, result.output
        checked = "its file has the digest" if label == "multi-task" else "its weights have the dig"
        assert checked in result.output
        code = program_of(tmp_path / label)
        for task in tasks:
            calls.append((code, [str(tmp_path / label), task, *images[task][0]]))
            expected.append((task, row_of(made, method=label, task=task)["accuracy"]))
    expert = next(iter(made.opened.plan.experts.values()))
    assert export("--expert", expert.id, output="expert").exit_code == 0
    calls.append((program_of(tmp_path / "expert"), [str(tmp_path / "expert"), expert.task]))
    calls[-1][1].extend(images[expert.task][0])
    scores = row_of(made, method="shared", task=expert.task)
    expected.append((expert.task, scores["expert_accuracy"]))
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    (tmp_path / "run.py").write_text(RUNNER)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "run.py", "calls.json"],
        cwd=tmp_path,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    answers = iter(ended.stdout.splitlines())
    for task, accuracy in expected:
        correct = [next(answers) == each for each in images[task][1]]
        assert sum(correct) / len(correct) == accuracy
    assert len({accuracy for _, accuracy in expected}) > 2
    assert next(answers, None) is None


def test_the_card_is_one_that_the_hub_reads(
    made: Made, export: Callable[..., Result], tmp_path: Path
) -> None:
    """Its front matter has the scores, and its text the origin of every expert."""
    assert export("--best", "union", "--method", "shared").exit_code == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "timm"
    scores = {each.dataset_type: each.metric_value for each in card.data.eval_results or []}
    best = max(
        ("lr=0.01", "lr=0.02"),
        key=lambda s: row_of(made, method="shared", task="union", setting=s)["accuracy"],
    )
    assert scores == {
        task: row_of(made, method="shared", task=task, setting=best)["accuracy"]
        for task in ("emoji_objects", "mnist_5k", "macro", "union")
    }
    cell = next(c for c in made.opened.plan.cells if c.setting.name == best and c.label == "shared")
    for part in (cell.merge.id, *(expert.id for expert in cell.merge.experts), f"lr={best[3:]}"):
        assert part in card.text
    assert "highest union accuracy of 2 merges on the test images" in card.text


def test_the_card_of_a_multi_task_model_says_how_it_was_trained(
    made: Made, export: Callable[..., Result], tmp_path: Path
) -> None:
    """By its id, as the best of its kind and by its place; the best of all stays a merge."""
    row = row_of(made, method="multi-task", task="union")
    assert export("--best", "union", "--method", "multi-task").exit_code == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "fine-tuned on 2 tasks together" in card.text
    assert "12 steps, each on 8 images of all tasks mixed" in card.text
    assert "It is no merge and has no experts." in card.text
    assert "highest union accuracy of 1 multi-task model on the test images" in card.text
    assert f"- multi-task model: `{row['merge_id']}`" in card.text
    assert "## Experts" not in card.text
    scores = {each.dataset_type: each.metric_value for each in card.data.eval_results or []}
    assert scores["union"] == row["accuracy"]
    assert set(scores) == {"emoji_objects", "mnist_5k", "macro", "union"}
    places = ("--merge", row["merge_id"]), ("--method", "multi-task", "--group", GROUP)
    for number, words in enumerate(places):
        result = export(*words, output=f"again{number}")
        assert f"multi-task model {row['merge_id']}: {GROUP}, lr=0.01" in result.output
    assert export("--best", output="best").output.startswith("merge ")


def test_images_are_prepared_as_in_the_study(export: Callable[..., Result], tmp_path: Path) -> None:
    """The export's transform in timm gives the study's pixels, also of a photograph's shape."""
    import timm  # noqa: PLC0415 takes seconds

    from eval.images.decoding import resized  # noqa: PLC0415

    assert export("--setting", "lr=0.01", "--method", "shared").exit_code == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config)
    generator = torch.Generator().manual_seed(0)
    for height, width in ((57, 91), (33, 32), (20, 47)):
        pixels = torch.randint(256, (height, width, 3), generator=generator).byte().numpy()
        ours = torch.from_numpy(resized(pixels, image_size=32, channels=3).copy())
        normalized = transform(Image.fromarray(pixels))
        mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
        assert torch.equal(((normalized * std + mean) * 255).round().byte(), ours.permute(2, 0, 1))


def rewrite(made: Made, manifest: Manifest, **metrics: object) -> None:
    """Replaces metrics in the manifest of an artifact; None removes one."""
    values = {k: v for k, v in {**manifest.metrics, **metrics}.items() if v is not None}
    content = replace(manifest, metrics=values).to_json()
    made.opened.artifacts.store.put(Layout.manifest(manifest.kind, manifest.id), content)


@pytest.fixture
def merge_manifest(made: Made) -> Iterator[Manifest]:
    """Returns the manifest of a merge; a test may rewrite it."""
    merge_id = row_of(made, method="shared", task="macro")["merge_id"]
    manifest = made.opened.ledger.committed().merges[merge_id]
    yield manifest
    rewrite(made, manifest)


def test_a_merge_of_an_earlier_release_is_evaluated_again(
    made: Made, export: Callable[..., Result], merge_manifest: Manifest, tmp_path: Path
) -> None:
    """Its manifest has no digest; the files are equal, and the card says so."""
    assert export("--merge", merge_manifest.id, output="with").exit_code == 0
    rewrite(made, merge_manifest, weights_sha256=None)
    result = export("--merge", merge_manifest.id, output="without")
    assert result.exit_code == 0, result.output
    assert "evaluated again, it has the sums that the study stored" in result.output
    with_digest, without = (
        load_file(tmp_path / each / "model.safetensors") for each in ("with", "without")
    )
    assert all(torch.equal(tensor, without[name]) for name, tensor in with_digest.items())
    assert "recorded no digest" in (tmp_path / "without" / "README.md").read_text()


@pytest.mark.parametrize("has_digest", [True, False])
def test_a_merge_that_is_not_the_evaluated_one_is_not_written(
    made: Made,
    export: Callable[..., Result],
    merge_manifest: Manifest,
    tmp_path: Path,
    has_digest: bool,  # noqa: FBT001 a parameter of the test
) -> None:
    """By its digest, or by its sums; the message has both."""
    tasks = {
        task: {**sums, "num_correct": 1} for task, sums in merge_manifest.metrics["tasks"].items()
    }
    if has_digest:
        rewrite(made, merge_manifest, weights_sha256="0" * 64)
    else:
        rewrite(made, merge_manifest, weights_sha256=None, tasks=tasks)
    result = export("--merge", merge_manifest.id)
    assert result.exit_code == 1
    assert ("0" * 16 if has_digest else "stored: 1, ") in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_content_is_never_overwritten(
    export: Callable[..., Result], tmp_path: Path
) -> None:
    """Nor is a file; an empty folder is used."""
    (tmp_path / "out").mkdir()
    assert export("--best").exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    result = export("--best")
    assert result.exit_code == 2
    assert "has content, which is never overwritten" in result.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "file").touch()
    assert "is a file" in export("--best", output="file").output
    assert "does not exist" in export("--best", output="none/out").output


REFUSED = {
    (): "say which model: --best, --merge ID",
    ("--merge", "x"): "the study has no merge 'x'; its merges: ",
    ("--expert", "x"): "the study has no expert 'x'; its experts: ",
    ("--method", "ties"): "has no method 'ties'; its methods: shared, own statistics, masks, surg",
    ("--method", "multi-task", "--setting", "lr=0.02"): "their settings: lr=0.01; their groups: "
    + GROUP,
    ("--setting", "lr=1"): "the study has no setting 'lr=1'; its settings: lr=0.01, lr=0.02",
    ("--best", "macro", "--group", "4x01"): f"has no group '4x01'; its groups: {GROUP}",
    ("--setting", "lr=0.01"): "6 merges fit; say --method: shared, own statistics, masks, surgery, "
    "tuned, tuned together, multi-task; or add --best",
    ("--merge", "x", "--best"): "an id names one model",
    ("--method", ""): "it is empty",
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_a_request_that_fits_no_model_says_what_there_is(
    export: Callable[..., Result], words: tuple[str, ...], tmp_path: Path
) -> None:
    """Exit code 2, and nothing is written."""
    result = export(*words)
    assert result.exit_code == 2
    assert REFUSED[words] in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []
