"""What a calibration is asked and what it answers: speeds of one device; free of torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workers.specs import (
    BaseSpec,
    DataSpec,
    ExpertSpec,
    MergeSpec,
    expert_from_json,
    surgery_from_json,
)


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """The work of a study in samples: one of each kind, to be timed on random weights and images.

    Experts name the study's base and data by their ids; nothing of these need exist.
    """

    bases: Mapping[str, BaseSpec]
    """Backbones, by the id that experts and merges call them by."""
    data: Mapping[str, DataSpec]
    """Images that experts are trained on, by id."""
    experts: tuple[ExpertSpec, ...]
    """One for each pair of base, image size, batch size and optimizer."""
    merges: tuple[MergeSpec, ...]
    """One for each method with its parameters, in the order in which to time them."""
    train_cpus: float
    """Cores that a trial is given."""
    merge_cpus: float

    def to_json(self) -> str:
        """Returns it as text, for another process."""
        fields = {
            "bases": {each: asdict(spec) for each, spec in self.bases.items()},
            "data": {each: asdict(spec) for each, spec in self.data.items()},
            "experts": [asdict(spec) for spec in self.experts],
            "merges": [asdict(spec) for spec in self.merges],
            "train_cpus": self.train_cpus,
            "merge_cpus": self.merge_cpus,
        }
        return json.dumps(fields)

    @staticmethod
    def from_json(text: str) -> "CalibrationRequest":
        """Returns what `to_json` was called on."""
        fields = json.loads(text)
        return CalibrationRequest(
            bases={each: BaseSpec(**spec) for each, spec in fields["bases"].items()},
            data={each: DataSpec(**spec) for each, spec in fields["data"].items()},
            experts=tuple(expert_from_json(spec) for spec in fields["experts"]),
            merges=tuple(_merge_from_json(spec) for spec in fields["merges"]),
            train_cpus=fields["train_cpus"],
            merge_cpus=fields["merge_cpus"],
        )


def _merge_from_json(fields: Mapping[str, Any]) -> MergeSpec:
    members = {
        name: tuple(expert_from_json(each) for each in fields[name])
        for name in ("experts", "held_out")
    }
    surgery = surgery_from_json(fields["surgery"])
    return MergeSpec(**{**fields, **members, "surgery": surgery})


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One measured speed."""

    what: str
    """What was timed, as `train_key` and its like spell it."""
    seconds: float
    """Of one unit: an optimizer step, an image, an expert merged, a file."""
    count: int
    """Units that were timed."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The speeds of one device, and how they were come by."""

    device: str
    """`cuda` or `cpu`."""
    device_name: str
    """As the maker calls it, for people."""
    machine: str
    """The host's name."""
    at_s: float
    """When, in seconds since 1970."""
    speeds: Mapping[str, float]
    """Seconds of one unit, by what was timed."""

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "Calibration":
        """Returns what `to_json` was called on.

        Raises:
            TypeError: A field is missing or unknown.
        """
        return Calibration(**fields)


def train_key(model: str, *, image_size: int, expert: ExpertSpec) -> str:
    """Names the speed of an optimizer step."""
    optimizer = expert.optimizer
    momentum = "" if optimizer.momentum else " without momentum"
    kind = f"{expert.batch_size} images, {optimizer.name}{momentum}"
    return f"step of {model} at {image_size} pixels, {kind}"


def image_key(model: str, *, image_size: int) -> str:
    """Names the speed of evaluating an image."""
    return f"image through {model} at {image_size} pixels"


def file_key(model: str) -> str:
    """Names the speed of writing an expert and reading it again."""
    return f"file of {model}"


def merge_key(model: str, *, image_size: int, merge: MergeSpec) -> str:
    """Names the speed of merging one expert: evaluation aside, which follows images."""
    fields = [merge.params, merge.batch_norm, merge.recalibration_images]
    if merge.surgery is not None:
        fields.append(asdict(merge.surgery))
    at = f" at {image_size} pixels"
    return f"expert of {model}{at} merged by {merge.method} {json.dumps(fields, sort_keys=True)}"


def speeds_of(lines: Sequence[str]) -> Iterator[Speed]:
    """Reads what a calibrating process has printed so far; a torn last line is left out."""
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict) and fields.keys() == {"what", "seconds", "count"}:
            yield Speed(**fields)
