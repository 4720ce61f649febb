"""Times samples of a study's work on this device: `python -m workers.calibrate`.

Reads a `CalibrationRequest` from standard input and prints a line of JSON for each speed as soon as
it is known, after a first line about the device. The work is that of real jobs, in a store of its
own that is thrown away, on random weights and random images: none of the study's need be here.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.evaluate import features_of
from eval.images import Split, write_split
from eval.tasks import find_task
from workers.backbones import Backbone
from workers.calibration import (
    CalibrationRequest,
    Speed,
    file_key,
    image_key,
    merge_key,
    train_key,
)
from workers.determinism import compute_deterministically
from workers.fine_tune import FineTuning, create_head
from workers.merge_job import run_merge
from workers.prepare import prepare_base
from workers.specs import VERSIONS, BaseJob, DataSpec, ExpertSpec, MergeSpec, spec_to_json
from workers.tensor_files import write_tensors
from workers.tuning_state import model_tensors
from workers.workspace import EXPERT_FILE, Workspace

NUM_DISTINCT_EXPERTS = 4
"""Experts that are made; larger groups have each of them several times, which takes a merge as long
and memory and disk less."""
NUM_WARM_STEPS = 2
MAX_STEPS, MAX_STEPS_S = 20, 3.0
"""A training speed is that of so many steps, or of so many seconds' worth, at least one."""
MAX_IMAGES, MAX_IMAGES_S = 1024, 2.0
NUM_TEST_IMAGES = 8
"""Of a task while merges are timed, whose evaluation is left out."""
NUM_TRAIN_IMAGES = 256
"""At least what methods that read images ask of a task by default."""
DELTA = 1e-3
"""Standard deviation of a random task vector's entries."""


@dataclass(kw_only=True)
class _Bench:
    """A throw-away store with what the samples need."""

    request: CalibrationRequest
    workspace: Workspace
    scratch: Path
    base_ids: dict[str, str] = field(default_factory=dict)
    """The random base that stands for each of the request's, by the latter's id."""
    committed: set[str] = field(default_factory=set)

    def prepare(self, expert: ExpertSpec) -> ExpertSpec:
        """Commits random weights and images where they are missing; returns the spec on them."""
        if expert.base_id not in self.base_ids:
            spec = replace(self.request.bases[expert.base_id], weights="none")
            prepare_base(BaseJob(spec=spec, path=None), workspace=self.workspace)
            self.base_ids[expert.base_id] = spec.id
        if expert.data_id not in self.committed:
            _commit_images(self.request.data[expert.data_id], expert=expert, bench=self)
            self.committed.add(expert.data_id)
        return replace(expert, base_id=self.base_ids[expert.base_id])

    def model(self, expert: ExpertSpec) -> str:
        """Returns the timm model of one of the request's experts."""
        return self.request.bases[expert.base_id].model

    def image_size(self, expert: ExpertSpec) -> int:
        """Returns the height of the images of one of the request's experts."""
        return self.request.data[expert.data_id].image_size


def speeds(request: CalibrationRequest, *, device: torch.device) -> Iterator[Speed]:
    """Times what is asked for: training, evaluation and files first, then one merge a method.

    Peak memory is that of one trial and one merge; the number of experts does not enter.
    """
    compute_deterministically()
    with tempfile.TemporaryDirectory(prefix="mergesweep-calibrate-") as name:
        scratch = Path(name)
        workspace = Workspace(str(scratch / "store"), cache_root=scratch / "cache", device=device)
        bench = _Bench(request=request, workspace=workspace, scratch=scratch)
        torch.set_num_threads(max(1, int(request.train_cpus)))
        for expert in request.experts:
            yield _train_speed(expert, bench=bench)
        torch.set_num_threads(max(1, int(request.merge_cpus)))
        for expert in _distinct_models(request.experts, bench=bench):
            yield _image_speed(expert, bench=bench)
        made: dict[str, list[ExpertSpec]] = {}
        for merge in request.merges:
            first = merge.experts[0]
            if first.base_id not in made:
                num_needed = max(
                    len(each.experts) for each in request.merges if each.base_id == merge.base_id
                )
                made[first.base_id], speed = _make_experts(
                    first, count=min(num_needed, NUM_DISTINCT_EXPERTS), bench=bench
                )
                yield speed
            yield _merge_speed(merge, experts=made[first.base_id], bench=bench)


def _distinct_models(experts: Iterable[ExpertSpec], *, bench: _Bench) -> list[ExpertSpec]:
    return list({(bench.model(each), bench.image_size(each)): each for each in experts}.values())


def _train_speed(expert: ExpertSpec, *, bench: _Bench) -> Speed:
    spec, workspace = bench.prepare(expert), bench.workspace
    backbone = workspace.base_backbone(spec.base_id)
    tuning = FineTuning(
        # Random weights may diverge at the study's rate; what a step costs does not depend on it.
        spec=replace(spec, lr=1e-6),
        backbone=backbone,
        head=_head(spec, backbone=backbone, workspace=workspace),
        train=workspace.split(spec.data_id, "train"),
        device=workspace.device,
    )
    for _ in range(NUM_WARM_STEPS):
        tuning.advance()
    seconds, count = _timed(
        tuning.advance, max_count=MAX_STEPS, max_s=MAX_STEPS_S, device=workspace.device
    )
    key = train_key(bench.model(expert), image_size=bench.image_size(expert), expert=expert)
    return Speed(what=key, seconds=seconds, count=count)


def _image_speed(expert: ExpertSpec, *, bench: _Bench) -> Speed:
    spec, workspace = bench.prepare(expert), bench.workspace
    backbone = workspace.base_backbone(spec.base_id)
    train = workspace.split(spec.data_id, "train")
    num_images = NUM_TEST_IMAGES
    seconds = _evaluation_s(backbone, train.rows(0, num_images), workspace=workspace)  # warms up
    while num_images < MAX_IMAGES:
        positions = np.arange(num_images) % len(train)
        split = Split(images=train.images[positions], labels=train.labels[positions])
        seconds = _evaluation_s(backbone, split, workspace=workspace)
        if seconds > MAX_IMAGES_S / 4:
            break
        num_images *= 4
    key = image_key(bench.model(expert), image_size=bench.image_size(expert))
    return Speed(what=key, seconds=seconds / len(split), count=len(split))


def _evaluation_s(backbone: Backbone, split: Split, *, workspace: Workspace) -> float:
    def run() -> None:
        features_of(
            backbone.module,
            split=split,
            normalization=backbone.normalization,
            device=workspace.device,
        )

    return _timed(run, max_count=1, max_s=0, device=workspace.device)[0]


def _make_experts(
    expert: ExpertSpec, *, count: int, bench: _Bench
) -> tuple[list[ExpertSpec], Speed]:
    """Commits experts with random task vectors, one in memory at a time; times the files."""
    spec, workspace = bench.prepare(expert), bench.workspace
    backbone = workspace.base_backbone(spec.base_id)
    head = _head(spec, backbone=backbone, workspace=workspace)
    made = [replace(spec, seed=number) for number in range(count)]
    total_s = 0.0
    for each in made:
        tensors = _with_random_task_vector(
            model_tensors(backbone.module, head),
            trained={f"backbone.{name}" for name, _ in backbone.module.named_parameters()},
            seed=each.seed,
        )
        started = time.perf_counter()
        _commit_expert(each, tensors=tensors, bench=bench)
        dict(workspace.expert_tensors(each.id))
        total_s += time.perf_counter() - started
    return made, Speed(what=file_key(bench.model(expert)), seconds=total_s / count, count=count)


def _with_random_task_vector(
    tensors: Mapping[str, Tensor], *, trained: set[str], seed: int
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor.detach().cpu() + DELTA * torch.randn(tensor.shape, generator=generator)
        if name in trained
        else tensor
        for name, tensor in tensors.items()
    }


def _commit_expert(spec: ExpertSpec, *, tensors: Mapping[str, Tensor], bench: _Bench) -> None:
    path = bench.scratch / EXPERT_FILE
    write_tensors(path, tensors, about={"id": spec.id})
    bench.workspace.artifacts.commit(
        "expert",
        spec.id,
        version=VERSIONS["expert"],
        spec=spec_to_json(spec),
        inputs={},
        files={EXPERT_FILE: path},
        outcome="done",
        metrics={},
        seconds={},
    )
    path.unlink()


def _merge_speed(merge: MergeSpec, *, experts: list[ExpertSpec], bench: _Bench) -> Speed:
    count = len(merge.experts)
    spec = replace(
        merge,
        base_id=experts[0].base_id,
        experts=tuple(experts[number % len(experts)] for number in range(count)),
        held_out=(),
    )
    started = time.perf_counter()
    manifest = run_merge(spec, workspace=bench.workspace)
    _wait_for(bench.workspace.device)
    seconds = time.perf_counter() - started
    if spec.surgery is None:  # which is counted as evaluation
        seconds -= manifest.seconds["evaluate"]
    first = merge.experts[0]
    key = merge_key(bench.model(first), image_size=bench.image_size(first), merge=merge)
    return Speed(what=key, seconds=seconds / count, count=count)


def _head(spec: ExpertSpec, *, backbone: Backbone, workspace: Workspace) -> torch.nn.Linear:
    head = create_head(
        backbone.num_features,
        num_classes=workspace.num_classes(spec.data_id),
        seed=spec.seed,
        task=spec.task,
    )
    return head.to(workspace.device)


def _commit_images(data: DataSpec, *, expert: ExpertSpec, bench: _Bench) -> None:
    task = find_task(data.task)
    generator = np.random.default_rng(0)
    files = {}
    for name, count in (("train", NUM_TRAIN_IMAGES), ("test", NUM_TEST_IMAGES)):
        shape = (count, data.image_size, data.image_size, task.channels)
        files[f"{name}.arrow"] = path = bench.scratch / f"{name}.arrow"
        write_split(
            path,
            generator.integers(256, size=shape, dtype=np.uint8),
            generator.integers(task.num_classes, size=count),
        )
    bench.workspace.artifacts.commit(
        "data",
        expert.data_id,
        version=VERSIONS["data"],
        spec=spec_to_json(data),
        inputs={},
        files=files,
        outcome="done",
        metrics={"num_classes": task.num_classes},
        seconds={},
    )


def _timed(
    run: Callable[[], None], *, max_count: int, max_s: float, device: torch.device
) -> tuple[float, int]:
    """Returns the mean seconds of a call, and how many calls were timed, at least one."""
    _wait_for(device)
    started = time.perf_counter()
    count = 0
    while count == 0 or (count < max_count and time.perf_counter() - started < max_s):
        run()
        count += 1
    _wait_for(device)
    return (time.perf_counter() - started) / count, count


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> int:
    """Prints the device and then each speed of the request; returns the exit code."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else _cpu_name()
    _print({"device": device.type, "device_name": name, "machine": platform.node()})
    request = CalibrationRequest.from_json(sys.stdin.read())
    for speed in speeds(request, device=device):
        _print(asdict(speed))
    return 0


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _print(fields: Mapping[str, object]) -> None:
    print(json.dumps(fields), flush=True)  # noqa: T201 the command's output


if __name__ == "__main__":
    raise SystemExit(main())
