"""What a calibration is asked and what it answers: speeds of one device; free of torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workers.specs.data import DataSpec
from workers.specs.merge import MergeSpec
from workers.specs.spec_json import base_from_json, expert_from_json, surgery_from_json
from workers.specs.training import BaseSpec, ExpertSpec, PretrainSpec


@dataclass(frozen=True, kw_only=True)
class ImageSample:
    """What random images stand for."""

    spec: DataSpec
    channels: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """The work of a study in samples: one of each kind, to be timed on random weights and images.

    Experts name the study's base and data by their ids; nothing of these need exist.
    """

    bases: Mapping[str, BaseSpec]
    """Backbones, by the id that experts and merges call them by."""
    data: Mapping[str, ImageSample]
    """Images that experts and bases are trained on, by id."""
    experts: tuple[ExpertSpec, ...]
    """One for each kind of step, as `train_key` tells them apart."""
    pretrained: tuple[BaseSpec, ...]
    """One for each kind of step that only pretraining takes, among `bases`."""
    merges: tuple[MergeSpec, ...]
    """One for each method with its parameters and each model, in the order in which to time them.
    """
    train_cpus: float
    """Cores that a trial is given."""
    merge_cpus: float

    def to_json(self) -> str:
        """Returns it as text, for another process."""
        fields = {
            "bases": {each: asdict(spec) for each, spec in self.bases.items()},
            "data": {each: asdict(sample) for each, sample in self.data.items()},
            "experts": [asdict(spec) for spec in self.experts],
            "pretrained": [asdict(spec) for spec in self.pretrained],
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
            bases={each: base_from_json(spec) for each, spec in fields["bases"].items()},
            data={each: _sample_from_json(sample) for each, sample in fields["data"].items()},
            experts=tuple(expert_from_json(spec) for spec in fields["experts"]),
            pretrained=tuple(base_from_json(spec) for spec in fields["pretrained"]),
            merges=tuple(_merge_from_json(spec) for spec in fields["merges"]),
            train_cpus=fields["train_cpus"],
            merge_cpus=fields["merge_cpus"],
        )

    def image_speeds(self) -> dict[str, tuple[ExpertSpec, bool]]:
        """Returns the speeds of evaluating that are asked for: an expert, and if linearised."""
        return {
            image_key(
                self.model(expert), image_size=self.image_size(expert), linearised=linearised
            ): (expert, linearised)
            for expert in self.experts
            for linearised in sorted({False, expert.linearised})
        }

    def wanted(self) -> tuple[str, ...]:
        """Names all the speeds that are asked for."""
        experts = ((self.model(each), self.image_size(each), each) for each in self.experts)
        bases = (
            (each.model, self.data[each.pretrain.data_ids[0]].spec.image_size, each.pretrain)
            for each in self.pretrained
            if each.pretrain is not None
        )
        firsts = [(merge, merge.experts[0]) for merge in self.merges]
        return (
            *self.image_speeds(),
            *(train_key(model, image_size=size, spec=spec) for model, size, spec in experts),
            *(train_key(model, image_size=size, spec=spec) for model, size, spec in bases),
            *dict.fromkeys(file_key(self.model(first)) for _, first in firsts),
            *(
                merge_key(self.model(first), image_size=self.image_size(first), merge=merge)
                for merge, first in firsts
            ),
        )

    def model(self, expert: ExpertSpec) -> str:
        """Returns the timm model of an expert."""
        return self.bases[expert.base_id].model

    def image_size(self, expert: ExpertSpec) -> int:
        """Returns the height of an expert's images."""
        return self.data[expert.data_id].spec.image_size


def _sample_from_json(fields: Mapping[str, Any]) -> ImageSample:
    return ImageSample(**{**fields, "spec": DataSpec(**fields["spec"])})


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


def train_key(model: str, *, image_size: int, spec: ExpertSpec | PretrainSpec) -> str:
    """Names the speed of an optimizer step by all that changes it."""
    optimizer = spec.optimizer
    parts = {
        f"{spec.batch_size} images": True,
        optimizer.name: True,
        "without momentum": not optimizer.momentum,
        "sharpness-aware": optimizer.sam_rho > 0,
        "linearised": spec.linearised,
        f"augmented by {spec.augment}": spec.augment != "none",
        "with a mean of the weights": spec.average_weights.mode == "ema",
    }
    kind = ", ".join(part for part, is_there in parts.items() if is_there)
    return f"step of {model} at {image_size} pixels, {kind}"


def image_key(model: str, *, image_size: int, linearised: bool) -> str:
    """Names the speed of evaluating an image."""
    return f"image through {'linearised ' * linearised}{model} at {image_size} pixels"


def file_key(model: str) -> str:
    """Names the speed of writing an expert and reading it again."""
    return f"file of {model}"


def merge_key(model: str, *, image_size: int, merge: MergeSpec) -> str:
    """Names the speed of merging one expert: evaluation aside, which follows images."""
    fields = [merge.params, merge.batch_norm, merge.recalibration_images]
    if merge.surgery is not None:
        fields.append(asdict(merge.surgery))
    at = f" at {image_size} pixels{', linearised,' * merge.linearised}"
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
