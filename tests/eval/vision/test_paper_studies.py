"""The plan of each of the paper's studies, and a small run of each study to its end.

A small run has two data sets in their published formats, few images of each, and two values per
axis. Its backbone has random weights, in the cache where timm keeps downloads. Everything else is
the study's own: the backbone and its image size, the optimizer, schedule, heads, axes and merging
methods.
"""

import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from orchestrator.cli.verbs.plan import prefix_sharing_line
from orchestrator.plan.plan import build_plan
from orchestrator.run.opened import open_study
from orchestrator.study.reader import parse_study
from workers.artifacts.node_cache import CACHE_VARIABLE
from workers.prepare.zero_shot import prepare_head
from workers.specs.head import HeadJob
from workers.workspace import Workspace

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
STUDIES = Path(__file__).parents[3] / "deploy" / "studies"
FULL_GRID = "paper-full-grid"
CLIP = "paper-clip-vit-b-32"
LARGE = ("paper-resnet50", "paper-resnet152", CLIP)
AXES = ("lr", "batch_size", "steps", "data_ratio", "num_tasks")
TASKS = ["eurosat", "mnist"]
SHORTENED = {"adamerging": {"steps": 2, "batch_size": 2}}
TIMEOUT_S = 1800
"""A busy machine takes ten times as long as an idle one."""


class Home:
    """A directory for the command line, with made weights and without a network."""

    def __init__(self, folder: Path, *, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        self.store = folder / "store"
        self.hub = folder / "hub"
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self._environment = {
            **kept,
            CACHE_VARIABLE: str(cache),
            "HF_HUB_CACHE": str(self.hub),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *arguments: str) -> str:
        """Runs a command to its end and returns its output."""
        ended = subprocess.run(
            [str(Path(sys.executable).with_name("mergesweep")), *arguments],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        assert "Traceback" not in ended.stdout
        return ended.stdout


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the cache of a node, which checks each backbone once."""
    return tmp_path_factory.mktemp("node")


@pytest.fixture
def home(tmp_path: Path, node: Path) -> Iterator[Home]:
    """Returns a home, and deletes its gigabytes at the end."""
    yield Home(tmp_path, cache=node)
    shutil.rmtree(tmp_path)


class MadeTower:
    """A text tower that derives embeddings from the text; open_clip is an optional package."""

    logit_scale = 100.0

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns embeddings of norm 1, as wide as those of CLIP's ViT-B/32."""
        drawn = [_drawn(zlib.crc32(text.encode())) for text in texts]
        return nn.functional.normalize(torch.stack(drawn))


def _drawn(seed: int) -> Tensor:
    return torch.randn(512, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "name",
    [
        "paper-resnet18",
        pytest.param("paper-resnet50", marks=pytest.mark.large),
        pytest.param("paper-resnet152", marks=pytest.mark.large),
    ],
)
def test_plan_of_a_resnet_study_has_all_tasks_and_axes(name: str, home: Home) -> None:
    """The plan shows the 20 tasks, the values of the authors' scripts, the jobs and the costs."""
    printed = home.call("plan", str(STUDIES / f"{name}.yaml"), "--slots", "64")
    assert f"study {name}: 20 tasks" in printed
    assert planned(printed) == {"trials": 7 * 20, "experts": 10 * 20, "merge jobs": 10 * 15 + 121}
    assert "axis lr: 0.001, 0.005, 0.01\n" in printed
    assert "axis batch_size: 64, 128, 256\n" in printed
    assert "axis steps: 1000, 2000, 3000, 4000\n" in printed
    assert "axis data_ratio: 0.5, 0.8, 1.0\n" in printed
    assert "axis num_tasks: 2, 4, 6, 8, 10, 12, 14, 16, 18, 20\n" in printed
    check_costs(printed)


def test_plan_of_the_full_grid_has_all_combinations() -> None:
    """27 configurations of 20 tasks on three backbones, with snapshots at four step counts."""
    plan = build_plan(parse_study(yaml.safe_dump(read(FULL_GRID)), source="s", checks_store=False))
    assert len(plan.trials) == 27 * 20 * 3
    assert len(plan.experts) == 4 * 27 * 20 * 3
    # Groups of nine other sizes at the default point are merged, too.
    assert len(plan.merges) == 4 * 27 * 3 * 15 + 121
    assert "prefix sharing: 6,480,000 optimizer steps instead of 16,200,000 " in (
        prefix_sharing_line(plan)
    )


@pytest.mark.large
def test_plan_of_the_full_grid_is_printed_with_its_costs(home: Home) -> None:
    """The command checks the three models first, which takes most of its time."""
    printed = home.call("plan", str(STUDIES / f"{FULL_GRID}.yaml"), "--slots", "64")
    assert f"study {FULL_GRID}: 20 tasks" in printed
    check_costs(printed)


def test_plan_of_the_clip_study_has_eight_tasks_and_the_axes(home: Home) -> None:
    """All eight tasks are merged, except on the axis of their number: 83 smaller groups."""
    printed = home.call("plan", str(STUDIES / f"{CLIP}.yaml"), "--slots", "64")
    assert f"study {CLIP}: 8 tasks" in printed
    merges = (10 + 83) * 4
    assert planned(printed) == {"trials": 7 * 8, "experts": 10 * 8, "merge jobs": merges}
    assert [axis for axis in AXES if f"axis {axis}: " in printed] == list(AXES)
    assert "axis num_tasks: 2, 3, 4, 5, 6, 7, 8\n" in printed
    check_costs(printed)


def planned(printed: str) -> dict[str, int]:
    """Returns the numbers of the table at the start of a plan."""
    rows = re.findall(r"│ (trials|experts|merge jobs) +│ (\d+) ", printed)
    return {what: int(number) for what, number in rows}


def check_costs(printed: str) -> None:
    assert re.search(r"left: about \S+ (min|h) on 64 workers at once: [\d,.]+ GPU-hours, ", printed)
    assert re.search(r"in the store: experts [\d.]+ GB, bases [\d.]+ [MG]B, images \d", printed)


@pytest.mark.large
@pytest.mark.parametrize("name", ["paper-resnet18", *LARGE])
def test_study_in_small_goes_through_to_its_end(name: str, whole_root: Path, home: Home) -> None:
    """A small run makes all experts and merges of the plan, on all five axes, with tables."""
    text = yaml.safe_dump(in_small(read(name), data_root=whole_root, store=home.store))
    (home.folder / "study.yaml").write_text(text)
    plan = open_study(parse_study(text, source="study.yaml"), text=text).plan
    num_merges = (5 + 2) * len(plan.study.merge)  # of both; at the default point of each too
    assert len(plan.trials) == 4 * 2  # the default point, and another value on three axes
    assert len(plan.experts) == 5 * 2  # and an expert after one step
    assert len(plan.merges) == num_merges
    keep_made_weights(plan.study.backbone.model, hub=home.hub)
    keep_made_heads(plan.heads.values(), home=home)
    home.call("run", "study.yaml")
    results = pq.read_table(home.store / "studies" / name / "results.parquet").to_pylist()
    assert {row["axis"] for row in results} == set(AXES)
    assert {row["task"] for row in results} == {*TASKS, "macro", "union"}
    assert len({row["merge_id"] for row in results}) == num_merges
    assert all(0 <= row["accuracy"] <= 1 and row["loss"] > 0 for row in results)
    experts = pq.read_table(home.store / "studies" / name / "experts.parquet").to_pylist()
    assert {row["num_examples"] for row in experts} == {4}
    report = (home.store / "studies" / name / "report.html").read_text()
    assert all(axis in report for axis in AXES)


def read(name: str) -> dict[str, Any]:
    """Reads a study's file."""
    study: dict[str, Any] = yaml.safe_load((STUDIES / f"{name}.yaml").read_text())
    return study


def in_small(study: dict[str, Any], *, data_root: Path, store: Path) -> dict[str, Any]:
    """Returns a study on two tasks, with few images and steps and two values an axis."""
    finetune = study["finetune"]
    axes, defaults = finetune["axes"], finetune["defaults"] | {"steps": 2, "batch_size": 2}
    axes |= {"steps": [1, 2], "batch_size": [2, 4]}
    axes |= {axis: two_of(axes[axis], default=defaults[axis]) for axis in ("lr", "data_ratio")}
    return study | {
        "tasks": {
            "suite": study["tasks"],
            "names": TASKS,
            "root": str(data_root),
            "max_train": 8,
            "max_test": 4,
        },
        "finetune": finetune | {"axes": axes, "defaults": defaults},
        "groups": study["groups"] | {"size": 2, "sizes": [1, 2]},
        "merge": [merge | SHORTENED.get(merge["method"], {}) for merge in study["merge"]],
        "resources": {"trial": {"cpu": 1}, "merge": {"cpu": 1}},
        "store": str(store),
    }


def two_of(values: Sequence[float], *, default: float) -> list[float]:
    """Returns the default and one other value of an axis."""
    assert default in values
    return sorted({default, next(value for value in values if value != default)})


def keep_made_weights(model: str, *, hub: Path) -> None:
    """Writes random weights to the path where timm keeps a download of the model."""
    name: str = timm.get_pretrained_cfg(model).hf_hub_id
    kept, commit = hub / f"models--{name.replace('/', '--')}", "0" * 40
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    snapshot = kept / "snapshots" / commit
    snapshot.mkdir(parents=True)
    tensors: Mapping[str, Tensor] = timm.create_model(model, pretrained=False).state_dict()
    save_file(dict(tensors), snapshot / "model.safetensors")


def keep_made_heads(jobs: Iterable[HeadJob], *, home: Home) -> None:
    """Commits the zero-shot heads of a study to its store."""
    workspace = Workspace(str(home.store), cache_root=home.cache, device=torch.device("cpu"))
    for job in jobs:
        prepare_head(job, workspace=workspace, open_tower=lambda *_, **__: MadeTower())
