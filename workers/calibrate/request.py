"""The request that the driver sends to a calibrating process. Free of torch."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from workers.calibrate.speeds import file_key, image_key, merge_key, train_key
from workers.specs.bases import BaseSpec
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec


@dataclass(frozen=True, kw_only=True)
class ImageSample:
    """The properties of a task's images that random images must share."""

    spec: DataSpec
    channels: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """Samples of a study's work, one of each kind, to time on random weights and images.

    Experts name the study's bases and images by their ids. None of these artifacts has to exist.
    """

    bases: Mapping[str, BaseSpec]
    """Bases by the ids that experts and merges use."""
    data: Mapping[str, ImageSample]
    """Training images of experts and bases, by data id."""
    experts: tuple[ExpertSpec, ...]
    """One expert for each kind of optimizer step, as `train_key` distinguishes them."""
    pretrained: tuple[BaseSpec, ...]
    """One of `bases` for each kind of optimizer step that only pretraining takes."""
    merges: tuple[MergeSpec, ...]
    """One merge for each model, method and parameters, in the order in which to time them."""
    train_cpus: float
    """Cores of one trial."""
    merge_cpus: float
    """Cores of one merge job."""

    def to_json(self) -> str:
        """Returns the request as text, for another process."""
        fields = {
            "bases": {each: spec.to_json() for each, spec in self.bases.items()},
            "data": {each: asdict(sample) for each, sample in self.data.items()},
            "experts": [spec.to_json() for spec in self.experts],
            "pretrained": [spec.to_json() for spec in self.pretrained],
            "merges": [_merge_to_json(spec) for spec in self.merges],
            "train_cpus": self.train_cpus,
            "merge_cpus": self.merge_cpus,
        }
        return json.dumps(fields)

    @staticmethod
    def from_json(text: str) -> "CalibrationRequest":
        """Returns the request from the text that `to_json` returned."""
        fields = json.loads(text)
        return CalibrationRequest(
            bases={each: BaseSpec.from_json(spec) for each, spec in fields["bases"].items()},
            data={each: _sample_from_json(sample) for each, sample in fields["data"].items()},
            experts=tuple(ExpertSpec.from_json(spec) for spec in fields["experts"]),
            pretrained=tuple(BaseSpec.from_json(spec) for spec in fields["pretrained"]),
            merges=tuple(_merge_from_json(spec) for spec in fields["merges"]),
            train_cpus=fields["train_cpus"],
            merge_cpus=fields["merge_cpus"],
        )

    def evaluations(self) -> dict[str, tuple[ExpertSpec, bool]]:
        """Returns the evaluations to time, by `image_key`.

        Each is an expert whose model and image size to use, and whether the model is linearised.
        """
        return {
            image_key(
                self.model(expert), image_size=self.image_size(expert), linearised=linearised
            ): (expert, linearised)
            for expert in self.experts
            for linearised in sorted({False, expert.hyperparameters.linearised})
        }

    def speed_keys(self) -> tuple[str, ...]:
        """Returns the keys of all requested speeds."""
        return (*self.evaluations(), *self._train_keys(), *self._merge_keys())

    def model(self, expert: ExpertSpec) -> str:
        """Returns the timm model of an expert."""
        return self.bases[expert.base_id].model

    def image_size(self, expert: ExpertSpec) -> int:
        """Returns the height of an expert's images, in pixels."""
        return self.data[expert.data_id].spec.image_size

    def _train_keys(self) -> Iterator[str]:
        for expert in self.experts:
            yield train_key(self.model(expert), image_size=self.image_size(expert), spec=expert)
        for base in self.pretrained:
            if (spec := base.pretrain) is not None:
                size = self.data[spec.data_ids[0]].spec.image_size
                yield train_key(base.model, image_size=size, spec=spec)

    def _merge_keys(self) -> Iterator[str]:
        firsts = [merge.experts[0] for merge in self.merges]
        yield from dict.fromkeys(file_key(self.model(expert)) for expert in firsts)
        for merge, expert in zip(self.merges, firsts, strict=True):
            yield merge_key(self.model(expert), image_size=self.image_size(expert), merge=merge)


def _sample_from_json(fields: Mapping[str, Any]) -> ImageSample:
    return ImageSample(**{**fields, "spec": DataSpec.from_json(fields["spec"])})


def _merge_to_json(merge: MergeSpec) -> dict[str, Any]:
    return {
        **merge.to_json(),
        "experts": [expert.to_json() for expert in merge.experts],
        "held_out": [expert.to_json() for expert in merge.held_out],
    }


def _merge_from_json(fields: Mapping[str, Any]) -> MergeSpec:
    return MergeSpec.from_json(
        fields,
        experts=tuple(ExpertSpec.from_json(each) for each in fields["experts"]),
        held_out=tuple(ExpertSpec.from_json(each) for each in fields["held_out"]),
    )
