"""Times samples of a study's work on this device: `python -m workers.calibrate`.

Reads a `CalibrationRequest` from standard input. Prints a line of JSON about the device and then a
line for each speed as soon as it is measured. The samples run the code of real jobs in a temporary
store, on random weights and random images. The study's own weights and images are not needed.
"""

import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from eval.evaluate import CUDA_BATCH_SIZE, features_of
from eval.images.split import Split
from workers.calibrate.device_memory import DeviceMemory, memory_of
from workers.calibrate.request import CalibrationRequest
from workers.calibrate.sample_store import SampleStore
from workers.calibrate.speeds import Speed, calibration_of, file_key, merge_key, train_key
from workers.merging.merge_job import run_merge
from workers.models.backbones import Backbone
from workers.models.lora.injected import adapted_backbone
from workers.sampling.determinism import compute_deterministically
from workers.specs.bases import BaseSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.store.scratch import scratch_directory
from workers.train.trainer import Trainer, create_head
from workers.workspace import Workspace

NUM_WARM_STEPS = 2
SAFE_LR = 1e-6
"""Learning rate of timed steps. Random weights may diverge at the study's rate, and the duration of
a step does not depend on the rate."""
MAX_STEPS, MAX_STEPS_S = 20, 3.0
"""A training speed is measured until one of these limits is reached, but over at least one step."""
FIRST_IMAGES, MAX_IMAGES, ENOUGH_S = 8, 1024, 0.5
"""The number of evaluated images is multiplied by four until the evaluation takes `ENOUGH_S`."""


def measured_speeds(
    request: CalibrationRequest, *, device: torch.device, memory: DeviceMemory | None = None
) -> Iterator[Speed]:
    """Measures the requested speeds: evaluation, which all jobs need, then training, then merging.

    A sample that fails is skipped, and its traceback goes to standard error: not every model can be
    linearised, and not every batch fits the device. Peak memory is that of one trial and one merge,
    whatever the number of experts.

    Args:
        request: The samples.
        device: Where to run them.
        memory: Measures the memory of trainings; by default that of the device.
    """
    compute_deterministically()
    with scratch_directory("calibrate") as scratch:
        workspace = Workspace(str(scratch / "store"), cache_root=scratch / "cache", device=device)
        store = SampleStore(request=request, workspace=workspace, scratch=scratch)
        for measure in _samples(store, memory=memory or memory_of(device)):
            try:
                speed = measure()
            except Exception:  # noqa: BLE001 the other speeds can still be measured
                traceback.print_exc()
            else:
                yield speed


def _samples(store: SampleStore, *, memory: DeviceMemory) -> Iterator[Callable[[], Speed]]:
    """Yields a measurement for each speed in order; sets torch's threads for the next one first."""
    request = store.request
    torch.set_num_threads(max(1, int(request.merge_cpus)))
    for key, (expert, linearised) in request.evaluations().items():
        yield partial(_image_speed, expert, key=key, linearised=linearised, store=store)
    torch.set_num_threads(max(1, int(request.train_cpus)))
    for expert in request.experts:
        yield partial(_fine_tuning_speed, expert, store=store, memory=memory)
    for base in request.pretrained:
        yield partial(_pretraining_speed, base, store=store, memory=memory)
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
    seconds = _evaluation_s(backbone, train.rows(0, num_images), workspace=workspace)  # a warm-up
    while num_images < MAX_IMAGES:
        positions = np.arange(num_images) % len(train)
        split = Split(images=train.images[positions], labels=train.labels[positions])
        seconds = _evaluation_s(backbone, split, workspace=workspace)
        if seconds > ENOUGH_S:
            break
        num_images *= 4
    return Speed(what=key, seconds=seconds / len(split), count=len(split))


def _evaluation_s(backbone: Backbone, split: Split, *, workspace: Workspace) -> float:
    def evaluate() -> None:
        features_of(
            backbone.model,
            split=split,
            normalization=backbone.normalization,
            device=workspace.device,
        )

    return _mean_s(evaluate, max_count=1, max_s=0, device=workspace.device)[0]


def _fine_tuning_speed(expert: ExpertSpec, *, store: SampleStore, memory: DeviceMemory) -> Speed:
    spec, request = store.prepare(expert), store.request
    linearised = spec.hyperparameters.linearised
    memory.reset_peak()
    backbone = store.workspace.base_backbone(spec.base_id, linearised=linearised)
    head = store.head(spec, backbone=backbone)
    if spec.hyperparameters.trains_adapters:
        device = store.workspace.device
        backbone = adapted_backbone(backbone, spec.hyperparameters, device=device).backbone
    trainer = Trainer(
        spec=replace(spec, hyperparameters=replace(spec.hyperparameters, lr=SAFE_LR)),
        backbone=backbone,
        head=head,
        train=store.workspace.split(spec.data_id, "train"),
        device=store.workspace.device,
    )
    key = train_key(request.model(expert), image_size=request.image_size(expert), spec=spec)
    return _step_speed(trainer, key=key, memory=memory)


def _pretraining_speed(base: BaseSpec, *, store: SampleStore, memory: DeviceMemory) -> Speed:
    """Measures steps on one task's images: the joint head of all tasks costs next to nothing."""
    assert base.pretrain is not None
    spec, data_id = base.pretrain, base.pretrain.data_ids[0]
    sample = store.request.data[data_id]
    store.prepare_images(data_id)
    memory.reset_peak()
    backbone = store.workspace.base_backbone(store.prepare_base(base))
    head = create_head(
        backbone.num_features,
        num_classes=sample.num_classes,
        seed=spec.hyperparameters.seed,
        task=spec.tasks[0],
    )
    trainer = Trainer(
        spec=replace(spec, hyperparameters=replace(spec.hyperparameters, lr=SAFE_LR)),
        backbone=backbone,
        head=head.to(store.workspace.device),
        train=store.workspace.split(data_id, "train"),
        device=store.workspace.device,
    )
    key = train_key(base.model, image_size=sample.spec.image_size, spec=spec)
    return _step_speed(trainer, key=key, memory=memory)


def _step_speed(trainer: Trainer, *, key: str, memory: DeviceMemory) -> Speed:
    """Times steps, and measures the memory of steps and of one batch of the evaluation."""
    for _ in range(NUM_WARM_STEPS):
        trainer.advance()
    seconds, count = _mean_s(
        trainer.advance, max_count=MAX_STEPS, max_s=MAX_STEPS_S, device=trainer.device
    )
    if memory.device_bytes() is not None:
        positions = np.arange(CUDA_BATCH_SIZE) % len(trainer.train)
        features_of(
            trainer.backbone.model,
            split=trainer.train.take(positions),
            normalization=trainer.backbone.normalization,
            device=trainer.device,
        )
    return Speed(what=key, seconds=seconds, count=count, peak_bytes=memory.peak_bytes())


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
    if spec.surgery is None:  # run_merge counts surgery's seconds as evaluation
        seconds -= manifest.seconds["evaluate"]
    first, request = merge.experts[0], store.request
    key = merge_key(request.model(first), image_size=request.image_size(first), merge=merge)
    return Speed(what=key, seconds=seconds / count, count=count)


def _mean_s(
    call: Callable[[], None], *, max_count: int, max_s: float, device: torch.device
) -> tuple[float, int]:
    """Returns the mean seconds of a call and the number of timed calls, which is at least one."""
    _wait_for(device)
    started = time.perf_counter()
    count = 0
    while count == 0 or (count < max_count and time.perf_counter() - started < max_s):
        call()
        count += 1
    _wait_for(device)
    return (time.perf_counter() - started) / count, count


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def calibrated_trainings(request: str, seconds: float) -> dict[str, object]:
    """Times the optimizer steps of a request on this device, merges left out.

    The driver has a worker with a whole GPU call this.

    Args:
        request: The request as text.
        seconds: Time after which no further sample is begun.

    Returns:
        The fields of a `Calibration`; plain values, which the driver reads without torch.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = description(device)
    samples = replace(CalibrationRequest.from_json(request), merges=())
    until_s = time.monotonic() + seconds
    speeds = []
    for speed in measured_speeds(samples, device=device):
        speeds.append(speed)
        if time.monotonic() > until_s:
            break
    return calibration_of(about, speeds=speeds).to_json()


def main() -> int:
    """Prints the device and then the measured speeds; returns the exit code."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _print(description(device))
    request = CalibrationRequest.from_json(sys.stdin.read())
    for speed in measured_speeds(request, device=device):
        _print(asdict(speed))
    return 0


def description(device: torch.device) -> dict[str, object]:
    """Returns the fields of a `Calibration` that describe a device."""
    memory = memory_of(device)
    torch.zeros(1, device=device)  # so that CUDA has what it needs in this process
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name() if device.type == "cuda" else _cpu_name(),
        "machine": platform.node(),
        "device_bytes": memory.device_bytes(),
        "process_bytes": memory.process_bytes(),
    }


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
