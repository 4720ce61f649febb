"""Runs every kind of sample on a tiny model."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from limited_memory import LimitedDevice, LimitedMemory

from eval.suites import find_task
from workers.calibrate import __main__ as calibrate
from workers.calibrate.__main__ import description, measured_speeds
from workers.calibrate.request import CalibrationRequest, ImageSample
from workers.calibrate.speeds import (
    Calibration,
    Speed,
    calibration_of,
    file_key,
    image_key,
    merge_key,
    parse_speeds,
    train_key,
)
from workers.merging.merge_job import run_merge
from workers.specs.bases import BaseSpec, PretrainSpec
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec, SurgerySpec

CPU = torch.device("cpu")
ABOUT = {"device": "cuda", "device_name": "simulated", "machine": "here", "process_bytes": 0}
METHODS: Mapping[str, Mapping[str, object]] = {
    "average": {},
    "ties": {"density": 0.2, "scaling": 0.3, "consensus": "sum", "scope": "model"},
    "fisher": {"images": 4},
}


def merge_of(
    experts: tuple[ExpertSpec, ...], method: str, params: Mapping[str, object]
) -> MergeSpec:
    from dataclasses import asdict  # noqa: PLC0415

    from merge.catalogue import parse_params  # noqa: PLC0415

    return MergeSpec(
        method=method,
        params=asdict(parse_params(method, params)),
        batch_norm="average",
        recalibration_images=0,
        seed=0,
        base_id=experts[0].base_id,
        experts=experts,
        held_out=(),
    )


def with_batch_size(expert: ExpertSpec, size: int) -> ExpertSpec:
    return replace(expert, hyperparameters=replace(expert.hyperparameters, batch_size=size))


def request_of(
    base: BaseSpec, datasets: Mapping[str, DataSpec], experts: tuple[ExpertSpec, ...]
) -> CalibrationRequest:
    group = experts * 3
    merges = [merge_of(group, method, params) for method, params in METHODS.items()]
    surgery = SurgerySpec(rank=2, steps=3, lr=0.001, batch_size=4)
    return CalibrationRequest(
        bases={base.id: base},
        data={
            spec.id: ImageSample(
                spec=spec,
                channels=find_task(spec.task).channels,
                num_classes=find_task(spec.task).num_classes,
            )
            for spec in datasets.values()
        },
        experts=(experts[0], with_batch_size(experts[0], 4)),
        pretrained=(),
        merges=(*merges, replace(merges[0], surgery=surgery)),
        train_cpus=1,
        merge_cpus=1,
    )


def test_every_kind_of_work_gets_a_speed(
    base: BaseSpec, datasets: Mapping[str, DataSpec], make_expert: Callable[..., ExpertSpec]
) -> None:
    """The study's weights are not needed: no file has the digest of the base."""
    unknown = replace(base, weights="sha256:" + "0" * 64)
    experts = tuple(replace(make_expert(task), base_id=unknown.id) for task in sorted(datasets))
    request = request_of(unknown, datasets, experts)
    found = list(measured_speeds(request, device=CPU))
    model, size = base.model, 32
    expected = [
        image_key(model, image_size=size, linearised=False),
        *(train_key(model, image_size=size, spec=each) for each in request.experts),
        file_key(model),
        *(merge_key(model, image_size=size, merge=each) for each in request.merges),
    ]
    assert [speed.what for speed in found] == expected
    assert len(set(expected)) == len(expected)
    assert all(speed.seconds > 0 for speed in found)
    assert [speed.count for speed in found[-4:]] == [9] * 4


def test_other_models_steps_and_pretraining_are_timed_as_they_are(
    base: BaseSpec,
    datasets: Mapping[str, DataSpec],
    make_expert: Callable[..., ExpertSpec],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All requested speeds are measured, with two models, SAM, linearised and pretrained.

    A sample that fails prints its traceback and does not stop the others.
    """
    other = replace(base, model="test_vit")
    plain = make_expert(min(datasets))
    sharp = make_expert(min(datasets), sam_rho=0.05)
    linear = make_expert(min(datasets), linearised=True, freeze_batch_norm=True)
    pretrain = PretrainSpec(
        tasks=(plain.task,),
        data_ids=(plain.data_id,),
        hyperparameters=replace(plain.hyperparameters, optimizer="adamw", batch_size=4),
        constants=plain.constants,
    )
    whole = request_of(base, datasets, (plain,))
    request = replace(
        whole,
        bases={base.id: base, other.id: other},
        experts=(plain, replace(plain, base_id=other.id), sharp, linear),
        pretrained=(replace(base, pretrain=pretrain),),
        merges=(
            whole.merges[0],
            merge_of((linear, linear), "average", {}),
            merge_of((replace(plain, base_id=other.id),), "average", {}),
        ),
    )
    found = {speed.what: speed.seconds for speed in measured_speeds(request, device=CPU)}
    assert set(found) == set(request.speed_keys())
    assert len(found) == 3 + 4 + 1 + 2 + 3
    broken = replace(request, experts=(with_batch_size(plain, 0), sharp))
    left = {speed.what for speed in measured_speeds(broken, device=CPU)}
    assert len(set(broken.speed_keys()) - left) == 1
    assert "Traceback" in capsys.readouterr().err


def test_large_groups_are_merged_from_few_distinct_experts(
    base: BaseSpec,
    datasets: Mapping[str, DataSpec],
    make_expert: Callable[..., ExpertSpec],
    monkeypatch: object,
) -> None:
    """A merge of nine experts uses four distinct experts."""
    merged: list[MergeSpec] = []

    def watched(spec: MergeSpec, **arguments: object) -> object:
        merged.append(spec)
        return run_merge(spec, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrate, "run_merge", watched)  # type: ignore[attr-defined]
    experts = tuple(make_expert(task) for task in sorted(datasets))
    request = request_of(base, datasets, experts)
    request = replace(request, experts=experts[:1], merges=request.merges[:1])
    list(measured_speeds(request, device=CPU))
    assert {len(spec.experts) for spec in merged} == {9}
    assert {len({each.id for each in spec.experts}) for spec in merged} == {4}


def test_request_travels_as_text(
    base: BaseSpec, datasets: Mapping[str, DataSpec], make_expert: Callable[..., ExpertSpec]
) -> None:
    """A request survives its text form; an incomplete line of the answer is skipped."""
    request = request_of(base, datasets, (make_expert("mnist_5k"),))
    assert CalibrationRequest.from_json(request.to_json()) == request
    lines = ['{"what": "a", "seconds": 0.5, "count": 3}', '{"device": "cpu"}', '{"what": "b", "sec']
    assert list(parse_speeds(lines)) == [Speed(what="a", seconds=0.5, count=3)]


def test_memory_of_each_kind_of_step_is_measured(
    base: BaseSpec, datasets: Mapping[str, DataSpec], make_expert: Callable[..., ExpertSpec]
) -> None:
    """Larger batches need more. The device is simulated: torch's tensors on the CPU are counted."""
    whole = request_of(base, datasets, (make_expert("mnist_5k"),))
    experts = tuple(with_batch_size(make_expert("mnist_5k"), size) for size in (4, 64, 4096))
    request = replace(whole, experts=experts, merges=())
    with LimitedMemory(30_000_000) as mode:
        device = LimitedDevice(mode, device_bytes=30_000_000)
        found = list(measured_speeds(request, device=CPU, memory=device))
    small, large = (
        speed.peak_bytes for speed in found if speed.what.startswith("step")
    )  # the third does not fit the device, and is skipped
    assert small is not None
    assert large is not None
    parameters, momenta, gradients = [4 * 99_196] * 3
    assert parameters + momenta + gradients < small < large < 30_000_000
    calibration = calibration_of({**ABOUT, "device_bytes": 30_000_000}, speeds=found)
    assert sorted(calibration.peaks.values()) == [small, large]
    assert Calibration.from_json(calibration.to_json()) == calibration


def test_memory_of_a_cpu_is_not_measured() -> None:
    """Its workers are not limited to a part of it."""
    about = description(CPU)
    assert (about["device"], about["device_bytes"], about["process_bytes"]) == ("cpu", None, 0)
    assert calibration_of(about, speeds=[Speed(what="a", seconds=1.0, count=1)]).peaks == {}
