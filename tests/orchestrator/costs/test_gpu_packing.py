from collections.abc import Callable
from dataclasses import replace

import pytest

from orchestrator.costs.gpu_packing import (
    MOST_WORKERS,
    lacks_measurement,
    packing_line,
    proposed_gpu,
    with_measured_gpu,
)
from orchestrator.study.schema import Study
from workers.calibrate.speeds import Calibration

GIGABYTE = 10**9
ON_GPU = Calibration(
    device="cuda",
    device_name="a GPU",
    machine="one",
    at_s=1.0,
    speeds={"small steps": 0.1},
    device_bytes=80 * GIGABYTE,
    process_bytes=GIGABYTE,
    peaks={"small steps": 2 * GIGABYTE, "large steps": 10 * GIGABYTE},
)
AUTO = {"trial": {"gpu": "auto"}}


@pytest.mark.parametrize(
    ("peak_gigabytes", "expected"),
    [(10, 0.1666), (12, 0.2), (40, 1), (33, 0.5), (100, 1), (0.01, 1 / MOST_WORKERS)],
)
def test_as_many_workers_share_a_gpu_as_fit_with_headroom(
    peak_gigabytes: float, expected: float
) -> None:
    """Each worker needs its peak, a seventh more, and CUDA's own memory: 12.5 of 80 GB at 10 GB."""
    peaks = {"steps": int(peak_gigabytes * GIGABYTE)}
    assert proposed_gpu(replace(ON_GPU, peaks=peaks)) == expected


def test_number_stands_for_auto_once_it_is_measured(make_study: Callable[..., Study]) -> None:
    """Until then a trial gets a whole GPU. A number in the study file stays."""
    study = make_study(resources=AUTO)
    assert study.resources.trial.gpu == 1
    assert lacks_measurement(study, calibration=None)
    measured = with_measured_gpu(study, calibration=ON_GPU)
    assert measured.resources.trial.gpu == 0.1666
    assert measured.resources.trial.is_auto
    assert not lacks_measurement(measured, calibration=ON_GPU)
    given = make_study(resources={"trial": {"gpu": 0.5}})
    assert with_measured_gpu(given, calibration=ON_GPU) is given
    assert not lacks_measurement(given, calibration=None)


def test_calibration_without_memory_proposes_nothing(make_study: Callable[..., Study]) -> None:
    """Calibrations of earlier releases, and of CPUs, have speeds alone."""
    speeds_alone = Calibration.from_json(
        {"device": "cuda", "device_name": "a GPU", "machine": "one", "at_s": 1.0, "speeds": {}}
    )
    study = make_study(resources=AUTO)
    assert with_measured_gpu(study, calibration=speeds_alone) is study
    assert lacks_measurement(study, calibration=speeds_alone)
    line = packing_line(study, calibration=speeds_alone)
    assert line is not None
    assert "not measured yet" in line


def test_plan_says_what_auto_has_come_to(make_study: Callable[..., Study]) -> None:
    """The line names the kind of step that needs most."""
    study = with_measured_gpu(make_study(resources=AUTO), calibration=ON_GPU)
    assert packing_line(study, calibration=ON_GPU) == (
        "resources.trial.gpu: auto is 0.1666: at most 10.0 of 80.0 GB of one a GPU (large steps)"
    )
    assert packing_line(make_study(), calibration=ON_GPU) is None
