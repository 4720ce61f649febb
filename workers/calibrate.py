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
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from eval.evaluate import features_of
from eval.images import Split
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
from workers.fine_tune import FineTuning
from workers.merge_job import run_merge
from workers.sample_store import SampleStore
from workers.specs import ExpertSpec, MergeSpec
from workers.workspace import Workspace

NUM_DISTINCT_EXPERTS = 4
"""Experts that are made; larger groups have each of them several times, which takes a merge as long
and memory and disk less."""
NUM_WARM_STEPS = 2
MAX_STEPS, MAX_STEPS_S = 20, 3.0
"""A training speed is that of so many steps, or of so many seconds' worth, at least one."""
FIRST_IMAGES, MAX_IMAGES, ENOUGH_S = 8, 1024, 0.5
"""Images are evaluated in fours of the number before, until that takes long enough to be timed."""


def speeds(request: CalibrationRequest, *, device: torch.device) -> Iterator[Speed]:
    """Times what is asked for: training, evaluation and files first, then one merge a method.

    Peak memory is that of one trial and one merge; the number of experts does not enter.
    """
    compute_deterministically()
    with tempfile.TemporaryDirectory(prefix="mergesweep-calibrate-") as name:
        scratch = Path(name)
        workspace = Workspace(str(scratch / "store"), cache_root=scratch / "cache", device=device)
        store = SampleStore(request=request, workspace=workspace, scratch=scratch)
        torch.set_num_threads(max(1, int(request.train_cpus)))
        for expert in request.experts:
            yield _train_speed(expert, store=store)
        torch.set_num_threads(max(1, int(request.merge_cpus)))
        for expert in _distinct_models(request.experts, store=store):
            yield _image_speed(expert, store=store)
        made: dict[str, list[ExpertSpec]] = {}
        for merge in request.merges:
            first = merge.experts[0]
            if first.base_id not in made:
                num_needed = max(
                    len(each.experts) for each in request.merges if each.base_id == merge.base_id
                )
                made[first.base_id], speed = _make_experts(
                    first, count=min(num_needed, NUM_DISTINCT_EXPERTS), store=store
                )
                yield speed
            yield _merge_speed(merge, experts=made[first.base_id], store=store)


def _distinct_models(experts: Iterable[ExpertSpec], *, store: SampleStore) -> list[ExpertSpec]:
    return list({(store.model(each), store.image_size(each)): each for each in experts}.values())


def _train_speed(expert: ExpertSpec, *, store: SampleStore) -> Speed:
    spec, workspace = store.prepare(expert), store.workspace
    backbone = workspace.base_backbone(spec.base_id)
    tuning = FineTuning(
        # Random weights may diverge at the study's rate; what a step costs does not depend on it.
        spec=replace(spec, lr=1e-6),
        backbone=backbone,
        head=store.head(spec, backbone=backbone),
        train=workspace.split(spec.data_id, "train"),
        device=workspace.device,
    )
    for _ in range(NUM_WARM_STEPS):
        tuning.advance()
    seconds, count = _timed(
        tuning.advance, max_count=MAX_STEPS, max_s=MAX_STEPS_S, device=workspace.device
    )
    key = train_key(store.model(expert), image_size=store.image_size(expert), expert=expert)
    return Speed(what=key, seconds=seconds, count=count)


def _image_speed(expert: ExpertSpec, *, store: SampleStore) -> Speed:
    spec, workspace = store.prepare(expert), store.workspace
    backbone = workspace.base_backbone(spec.base_id)
    train = workspace.split(spec.data_id, "train")
    num_images = FIRST_IMAGES
    seconds = _evaluation_s(backbone, train.rows(0, num_images), workspace=workspace)  # warms up
    while num_images < MAX_IMAGES:
        positions = np.arange(num_images) % len(train)
        split = Split(images=train.images[positions], labels=train.labels[positions])
        seconds = _evaluation_s(backbone, split, workspace=workspace)
        if seconds > ENOUGH_S:
            break
        num_images *= 4
    key = image_key(store.model(expert), image_size=store.image_size(expert))
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
    expert: ExpertSpec, *, count: int, store: SampleStore
) -> tuple[list[ExpertSpec], Speed]:
    """Commits experts with random task vectors, one in memory at a time; times the files."""
    spec = store.prepare(expert)
    made = [replace(spec, seed=number) for number in range(count)]
    total_s = 0.0
    for each in made:
        tensors = store.random_expert(each)
        started = time.perf_counter()
        store.commit_expert(each, tensors=tensors)
        dict(store.workspace.expert_tensors(each.id))
        total_s += time.perf_counter() - started
    return made, Speed(what=file_key(store.model(expert)), seconds=total_s / count, count=count)


def _merge_speed(merge: MergeSpec, *, experts: list[ExpertSpec], store: SampleStore) -> Speed:
    count = len(merge.experts)
    spec = replace(
        merge,
        base_id=experts[0].base_id,
        experts=tuple(experts[number % len(experts)] for number in range(count)),
        held_out=(),
    )
    started = time.perf_counter()
    manifest = run_merge(spec, workspace=store.workspace)
    _wait_for(store.workspace.device)
    seconds = time.perf_counter() - started
    if spec.surgery is None:  # which is counted as evaluation
        seconds -= manifest.seconds["evaluate"]
    first = merge.experts[0]
    key = merge_key(store.model(first), image_size=store.image_size(first), merge=merge)
    return Speed(what=key, seconds=seconds / count, count=count)


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
