"""A calibration on a device of limited memory. It runs in Ray's processes.

The device is simulated: a mode counts the bytes of torch's tensors on the CPU.
"""

from dataclasses import replace

import torch
from limited_memory import LimitedDevice, LimitedMemory

from workers.calibrate.__main__ import measured_speeds
from workers.calibrate.request import CalibrationRequest
from workers.calibrate.speeds import calibration_of

DEVICE_BYTES = 24_000_000


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
