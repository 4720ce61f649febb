"""A real worker on a device of limited memory. It runs in Ray's processes.

The device is simulated: a mode counts the bytes of torch's tensors on the CPU, and a worker with a
part of the GPU gets this part of the memory.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from limited_memory import LimitedDevice, LimitedMemory

from workers import process
from workers.calibrate.__main__ import measured_speeds
from workers.calibrate.request import CalibrationRequest
from workers.calibrate.speeds import calibration_of
from workers.specs.training import Training
from workers.train.memory_share import MemoryShare
from workers.train.resumable import TrainingProgress

DEVICE_BYTES = 24_000_000


class Worker(process.Worker):
    """Runs the real jobs within the part of the memory that its share gives it."""

    def run_training(
        self,
        spec: Training,
        *,
        report_every_s: float,
        checkpoint_every_s: float = 30,
        memory: MemoryShare,
    ) -> Iterator[TrainingProgress]:
        """Runs a training with this much memory and no more."""
        with LimitedMemory(memory.gpu * DEVICE_BYTES):
            yield from super().run_training(
                spec,
                report_every_s=report_every_s,
                checkpoint_every_s=checkpoint_every_s,
                memory=memory,
            )


def calibrated_trainings(request: str, seconds: float) -> dict[str, object]:
    """Measures the memory of a request's trainings as the real function does on a GPU."""
    assert seconds > 0
    samples = replace(CalibrationRequest.from_json(request), merges=())
    with LimitedMemory(DEVICE_BYTES) as mode:
        device = LimitedDevice(mode, device_bytes=DEVICE_BYTES)
        speeds = list(measured_speeds(samples, device=torch.device("cpu"), memory=device))
    about = {
        "device": "cuda",
        "device_name": "simulated GPU",
        "machine": "test",
        "device_bytes": device.device_bytes(),
        "process_bytes": device.process_bytes(),
    }
    return calibration_of(about, speeds=speeds).to_json()
