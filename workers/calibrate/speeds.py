"""The measured speeds of one device and the keys that identify them. Free of torch."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from workers.specs.bases import PretrainSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One measured speed."""

    what: str
    """The key of the timed work: see `train_key`, `image_key`, `file_key`, `merge_key`."""
    seconds: float
    """Seconds per unit: an optimizer step, an image, a file, or an expert merged."""
    count: int
    """Number of units timed."""
    peak_bytes: int | None = None
    """Of an optimizer step: the most memory of the GPU that a trial of its kind needs. None for
    other work, and without a GPU."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The speeds of one device, with the machine and the time of the measurement."""

    device: str
    """`cuda` or `cpu`."""
    device_name: str
    """The manufacturer's name of the device, for people."""
    machine: str
    """The host's name."""
    at_s: float
    """Time of the measurement, in seconds since 1970."""
    speeds: Mapping[str, float]
    """Seconds per unit, by key."""
    device_bytes: int | None = None
    """Memory of the GPU; None without one."""
    process_bytes: int = 0
    """Memory of the GPU that CUDA itself needs in each process."""
    peaks: Mapping[str, int] = field(default_factory=dict)
    """`Speed.peak_bytes`, by key."""

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "Calibration":
        """Returns the calibration from the values that `to_json` returned.

        Raises:
            TypeError: A field is missing or unknown.
        """
        return Calibration(**fields)


def calibration_of(about: Mapping[str, Any], *, speeds: Sequence[Speed]) -> Calibration:
    """Returns the calibration that was measured now.

    Args:
        about: The fields that describe the device.
        speeds: What was measured on it.
    """
    return Calibration(
        **about,
        at_s=time.time(),
        speeds={speed.what: speed.seconds for speed in speeds},
        peaks={speed.what: speed.peak_bytes for speed in speeds if speed.peak_bytes is not None},
    )


def train_key(model: str, *, image_size: int, spec: ExpertSpec | PretrainSpec) -> str:
    """Returns the key of an optimizer step; it names everything that changes a step's speed."""
    hyperparameters = spec.hyperparameters
    parts = {
        f"{hyperparameters.batch_size} images": True,
        hyperparameters.optimizer: True,
        "without momentum": not spec.constants.momentum,
        "sharpness-aware": hyperparameters.sam_rho > 0,
        "linearised": hyperparameters.linearised,
        f"adapters of rank {hyperparameters.lora_rank} on {hyperparameters.lora_targets}": (
            hyperparameters.trains_adapters
        ),
        f"augmented by {hyperparameters.augment}": hyperparameters.augment != "none",
        "with a mean of the weights": hyperparameters.average_weights == "ema",
    }
    kind = ", ".join(part for part, is_there in parts.items() if is_there)
    return f"step of {model} at {image_size} pixels, {kind}"


def image_key(model: str, *, image_size: int, linearised: bool) -> str:
    """Returns the key of evaluating one image."""
    return f"image through {'linearised ' * linearised}{model} at {image_size} pixels"


def file_key(model: str) -> str:
    """Returns the key of writing one expert's file and reading it again."""
    return f"file of {model}"


def merge_key(model: str, *, image_size: int, merge: MergeSpec) -> str:
    """Returns the key of merging one expert; evaluation is not part of it (see `image_key`).

    A merge with tuned parameters has the key of the merge at the first values that it tries.
    """
    merge = merge.first_tried
    fields = [merge.params, merge.batch_norm, merge.recalibration_images]
    if merge.surgery is not None:
        fields.append(asdict(merge.surgery))
    at = f" at {image_size} pixels{', linearised,' * merge.linearised}"
    return f"expert of {model}{at} merged by {merge.method} {json.dumps(fields, sort_keys=True)}"


def parse_speeds(lines: Sequence[str]) -> Iterator[Speed]:
    """Yields the speeds in a calibrating process's output.

    Skips other lines, and the last line if it is incomplete.
    """
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict) and {"what", "seconds", "count"} <= fields.keys():
            yield Speed(**fields)
