"""Proposes the part of a GPU that a trial needs, from a calibration's peaks of memory."""

import math

from orchestrator.study.schema import Study
from workers.calibrate.speeds import Calibration

HEADROOM = 1.15
"""Memory per peak: real images and allocations in another order may need a little more."""
MOST_WORKERS = 16
"""On one GPU. Each needs a process, its cores and its images, and a busy GPU gets no faster."""
_PRECISION = 10_000
"""Ray divides a GPU into so many parts."""


def proposed_gpu(calibration: Calibration) -> float | None:
    """Returns the GPUs of one trial: 1/n for the most workers whose peaks fit; None if unknown.

    All trials of a study get the part of those that need most. A trial that needs more than a whole
    GPU gets one, runs out of memory, and goes on with micro-batches.
    """
    if calibration.device_bytes is None or not calibration.peaks:
        return None
    needed = HEADROOM * max(calibration.peaks.values()) + calibration.process_bytes
    num_workers = min(MOST_WORKERS, max(1, int(calibration.device_bytes / needed)))
    return math.floor(_PRECISION / num_workers) / _PRECISION


def with_measured_gpu(study: Study, *, calibration: Calibration | None) -> Study:
    """Returns a study of `resources.trial.gpu: auto` with the proposed number, if there is one."""
    if not study.resources.trial.is_auto or calibration is None:
        return study
    gpu = proposed_gpu(calibration)
    if gpu is None:
        return study
    return study.model_copy(update={"resources": study.resources.with_trial_gpu(gpu)})


def lacks_measurement(study: Study, *, calibration: Calibration | None) -> bool:
    """Returns whether a study needs the memory of its trials to be measured first."""
    if not study.resources.trial.is_auto:
        return False
    return calibration is None or proposed_gpu(calibration) is None


def packing_line(study: Study, *, calibration: Calibration | None) -> str | None:
    """Returns a line on the share that `resources.trial.gpu: auto` found; None for given shares."""
    trial = study.resources.trial
    if not trial.is_auto:
        return None
    if calibration is None or calibration.device_bytes is None or not calibration.peaks:
        return (
            "resources.trial.gpu: auto is not measured yet, so this plan gives each trial a whole "
            "GPU; `run` measures it first, and so does --calibrate on a machine with a GPU"
        )
    key, peak = max(calibration.peaks.items(), key=lambda each: each[1])
    return (
        f"resources.trial.gpu: auto is {trial.gpu:g}: at most {peak / 1e9:.1f} of "
        f"{calibration.device_bytes / 1e9:.1f} GB of one {calibration.device_name} ({key})"
    )
