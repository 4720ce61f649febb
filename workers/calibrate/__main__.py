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
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from eval.evaluate import features_of
from eval.images.split import Split
from workers.calibrate.request import CalibrationRequest
from workers.calibrate.sample_store import SampleStore
from workers.calibrate.speeds import Speed, file_key, merge_key, train_key
from workers.merging.merge_job import run_merge
from workers.models.backbones import Backbone
from workers.sampling.determinism import compute_deterministically
from workers.specs.merge import MergeSpec
from workers.specs.training import BaseSpec, ExpertSpec, PretrainSpec
from workers.train.fine_tune import FineTuning, create_head
from workers.workspace import Workspace

NUM_WARM_STEPS = 2
MAX_STEPS, MAX_STEPS_S = 20, 3.0
"""A training speed is that of so many steps, or of so many seconds' worth, at least one."""
FIRST_IMAGES, MAX_IMAGES, ENOUGH_S = 8, 1024, 0.5
"""Images are evaluated in fours of the number before, until that takes long enough to be timed."""


def speeds(request: CalibrationRequest, *, device: torch.device) -> Iterator[Speed]:
    """Times what is asked for: evaluation, which all jobs do, then training, then merges.

    What fails (not every model can be linearised, not every batch fits the device) is left out, and
    why is said on standard error. Peak memory is that of one trial and one merge; the number of
    experts does not enter.
    """
    compute_deterministically()
    with tempfile.TemporaryDirectory(prefix="mergesweep-calibrate-") as name:
        scratch = Path(name)
        workspace = Workspace(str(scratch / "store"), cache_root=scratch / "cache", device=device)
        store = SampleStore(request=request, workspace=workspace, scratch=scratch)
        for sample in _samples(store):
            try:
                speed = sample()
            except Exception:  # noqa: BLE001 whatever it is, the other speeds can be had
                traceback.print_exc()
            else:
                yield speed


def _samples(store: SampleStore) -> Iterator[Callable[[], Speed]]:
    """Yields what is to be timed, in order, with the threads set that it is given."""
    request = store.request
    torch.set_num_threads(max(1, int(request.merge_cpus)))
    for key, (expert, linearised) in request.evaluations().items():
        yield partial(_image_speed, expert, key=key, linearised=linearised, store=store)
    torch.set_num_threads(max(1, int(request.train_cpus)))
    for expert in request.experts:
        yield partial(_fine_tuning_speed, expert, store=store)
    for base in request.pretrained:
        yield partial(_pretraining_speed, base, store=store)
    torch.set_num_threads(max(1, int(request.merge_cpus)))
    models: set[str] = set()
    for merge in request.merges:
        model = request.model(merge.experts[0])
        if model not in models:
            models.add(model)
            yield partial(_file_speed, merge, store=store)
        yield partial(_merge_speed, merge, store=store)


def _image_speed(expert: ExpertSpec, *, key: str, linearised: bool, store: SampleStore) -> Speed:
    spec, workspace = store.prepare(expert), store.workspace
    backbone = workspace.base_backbone(spec.base_id, linearised=linearised)
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
    return Speed(what=key, seconds=seconds / len(split), count=len(split))


def _evaluation_s(backbone: Backbone, split: Split, *, workspace: Workspace) -> float:
    def run() -> None:
        features_of(
            backbone.model,
            split=split,
            normalization=backbone.normalization,
            device=workspace.device,
        )

    return _timed(run, max_count=1, max_s=0, device=workspace.device)[0]


def _fine_tuning_speed(expert: ExpertSpec, *, store: SampleStore) -> Speed:
    spec, request = store.prepare(expert), store.request
    backbone = store.workspace.base_backbone(spec.base_id, linearised=spec.linearised)
    return _step_speed(
        spec,
        what=train_key(request.model(expert), image_size=request.image_size(expert), spec=spec),
        backbone=backbone,
        head=store.head(spec, backbone=backbone),
        data_id=spec.data_id,
        workspace=store.workspace,
    )


def _pretraining_speed(base: BaseSpec, *, store: SampleStore) -> Speed:
    """Times steps on images of one task: the joint head of all of them costs next to nothing."""
    assert base.pretrain is not None
    spec, data_id = base.pretrain, base.pretrain.data_ids[0]
    sample = store.request.data[data_id]
    store.prepare_images(data_id)
    backbone = store.workspace.base_backbone(store.prepare_base(base))
    head = create_head(
        backbone.num_features, num_classes=sample.num_classes, seed=spec.seed, task=spec.tasks[0]
    )
    return _step_speed(
        spec,
        what=train_key(base.model, image_size=sample.spec.image_size, spec=spec),
        backbone=backbone,
        head=head.to(store.workspace.device),
        data_id=data_id,
        workspace=store.workspace,
    )


def _step_speed(
    spec: ExpertSpec | PretrainSpec,
    *,
    what: str,
    backbone: Backbone,
    head: torch.nn.Linear,
    data_id: str,
    workspace: Workspace,
) -> Speed:
    tuning = FineTuning(
        # Random weights may diverge at the study's rate; what a step costs does not depend on it.
        spec=replace(spec, lr=1e-6),
        backbone=backbone,
        head=head,
        train=workspace.split(data_id, "train"),
        device=workspace.device,
    )
    for _ in range(NUM_WARM_STEPS):
        tuning.advance()
    seconds, count = _timed(
        tuning.advance, max_count=MAX_STEPS, max_s=MAX_STEPS_S, device=workspace.device
    )
    return Speed(what=what, seconds=seconds, count=count)


def _file_speed(merge: MergeSpec, *, store: SampleStore) -> Speed:
    model = store.request.model(merge.experts[0])
    count = len(store.experts(merge))
    return Speed(what=file_key(model), seconds=store.file_s[model], count=count)


def _merge_speed(merge: MergeSpec, *, store: SampleStore) -> Speed:
    experts, count = store.experts(merge), len(merge.experts)
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
    first, request = merge.experts[0], store.request
    what = merge_key(request.model(first), image_size=request.image_size(first), merge=merge)
    return Speed(what=what, seconds=seconds / count, count=count)


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
