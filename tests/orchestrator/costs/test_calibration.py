from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.costs.calibration import (
    CalibrationError,
    calibrate,
    calibration_request,
    fitting_calibration,
    read_calibrations,
    store_calibration,
)
from orchestrator.plan.plan import Plan
from orchestrator.record.folder import CALIBRATION_FILE, StudyFolder
from orchestrator.study.schema import Study
from workers.calibrate.request import CalibrationRequest
from workers.calibrate.speeds import Calibration
from workers.store.opening import open_store

HERE = Calibration(
    device="cpu", device_name="a core", machine="one", at_s=1.0, speeds={"step": 0.1}
)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(open_store(str(tmp_path / "store")), "small")


def test_request_has_one_sample_of_each_kind(make_plan: Callable[..., Plan]) -> None:
    """Learning rates are one kind, batch sizes are not. Methods that read images come last."""
    plan = make_plan(
        finetune={"axes": {"lr": [0.1, 0.01], "batch_size": [8, 16]}},
        groups={"size": 2, "sizes": [2, 3]},
        merge=[{"method": "fisher"}, {"method": "average"}, {"method": "ties"}],
    )
    request = calibration_request(plan)
    assert sorted(each.hyperparameters.batch_size for each in request.experts) == [8, 16, 64]
    assert [each.method for each in request.merges] == ["average", "ties", "fisher"]
    assert {len(each.experts) for each in request.merges} == {2}
    assert CalibrationRequest.from_json(request.to_json()) == request


def test_request_has_each_model_and_each_kind_of_step(make_plan: Callable[..., Plan]) -> None:
    """Each model's first kind comes first. Bases of one model are one kind; pretraining is one."""
    plan = make_plan(
        backbone={
            "model": "test_resnet",
            "weights": "none",
            "image_size": 32,
            "pretrain": {"tasks": ["mnist_m"], "steps": 50, "batch_size": 16},
            "axes": {"pretrain_steps": [0, 20, 50], "model": ["test_resnet", "test_vit"]},
        },
        finetune={"axes": {"sam_rho": [0.0, 0.05], "linearised": [False, True]}},
    )
    request = calibration_request(plan)
    models = [request.model(each) for each in request.experts]
    assert models == ["test_resnet", "test_vit", "test_resnet", "test_resnet"]
    kinds = [
        (each.hyperparameters.sam_rho, each.hyperparameters.linearised) for each in request.experts
    ]
    assert kinds == [(0.0, False), (0.0, False), (0.05, False), (0.0, True)]
    assert [base.model for base in request.pretrained] == ["test_resnet", "test_vit"]
    merged = [(request.model(each.experts[0]), each.linearised) for each in request.merges]
    assert sorted(merged) == [("test_resnet", False), ("test_resnet", True), ("test_vit", False)]
    tasks = {sample.spec.task for sample in request.data.values()}
    assert "mnist_m" in tasks
    wanted = request.speed_keys()
    assert len(set(wanted)) == len(wanted) == 3 + 4 + 2 + 2 + 3
    assert CalibrationRequest.from_json(request.to_json()) == request


def test_newest_calibration_of_each_machine_and_device_is_stored(folder: StudyFolder) -> None:
    """A damaged file counts as empty, as a calibration can be repeated."""
    assert read_calibrations(folder) == []
    other = replace(HERE, device="cuda", device_name="a GPU", machine="two")
    newer = replace(HERE, at_s=2.0)
    for each in (HERE, other, newer):
        store_calibration(folder, each)
    assert read_calibrations(folder) == [other, newer]
    content = folder.read_bytes(CALIBRATION_FILE)
    assert content is not None
    folder.write_bytes(CALIBRATION_FILE, content.replace(b"0.1", b"0.2"))
    assert read_calibrations(folder) == []


def test_calibration_is_of_the_kind_of_device_that_workers_get(
    make_study: Callable[..., Study],
) -> None:
    """A study on GPUs uses no calibration of a CPU, whatever machine plans it."""
    cpu, gpu = make_study(), make_study(resources={"trial": {"gpu": 1}})
    on_gpu = replace(HERE, device="cuda")
    newer = replace(HERE, at_s=2.0)
    assert fitting_calibration([HERE, newer, on_gpu], study=cpu) == newer
    assert fitting_calibration([HERE, on_gpu, newer], study=gpu) == on_gpu
    assert fitting_calibration([HERE], study=gpu) is None


def test_calibration_without_a_speed_is_an_error(
    make_plan: Callable[..., Plan],
) -> None:
    """The process is ended at its limit, which begins after torch is loaded."""
    request = calibration_request(make_plan())
    with pytest.raises(CalibrationError, match="no speed was measured within 0 s"):
        calibrate(request, seconds=0.0, progress=print)
