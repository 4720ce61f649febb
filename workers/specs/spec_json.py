"""Specifications as the plain values that manifests carry, and back."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from workers.specs.data import DataSpec, ZeroShotSpec
from workers.specs.merge import MergeSpec, SurgerySpec
from workers.specs.training import (
    AveragingSpec,
    BaseSpec,
    ExpertSpec,
    HeadSpec,
    OptimizerSpec,
    PretrainSpec,
)


def spec_to_json(
    spec: BaseSpec | DataSpec | ZeroShotSpec | ExpertSpec | MergeSpec,
) -> dict[str, Any]:
    """Returns a specification as the plain values that its manifest carries.

    A merge names its experts by id; their own manifests say what they are.
    """
    if not isinstance(spec, MergeSpec):
        return asdict(spec)
    return {
        **asdict(replace(spec, experts=(), held_out=())),
        "experts": {expert.task: expert.id for expert in spec.experts},
        "held_out": {expert.task: expert.id for expert in spec.held_out},
    }


def base_from_json(values: Mapping[str, Any]) -> BaseSpec:
    """Returns the base that `spec_to_json` wrote down.

    Raises:
        TypeError: A field is missing, or is one that bases do not have.
    """
    pretrain = values.get("pretrain")
    if pretrain is None:
        return BaseSpec(**values)
    lists = {name: tuple(pretrain[name]) for name in ("tasks", "data_ids")}
    optimizer = OptimizerSpec(**pretrain["optimizer"])
    spec = PretrainSpec(**{**pretrain, **lists, "optimizer": optimizer})
    return BaseSpec(**{**values, "pretrain": spec})


def expert_from_json(values: Mapping[str, Any]) -> ExpertSpec:
    """Returns the expert that `spec_to_json` wrote down.

    Raises:
        KeyError: A part is missing.
        TypeError: A field is missing, or is one that experts do not have.
    """
    parts = {
        "optimizer": OptimizerSpec(**values["optimizer"]),
        "head": HeadSpec(**values["head"]),
        "average_weights": AveragingSpec(**values["average_weights"]),
    }
    return ExpertSpec(**{**values, **parts})


def head_from_json(values: Mapping[str, Any]) -> ZeroShotSpec:
    """Returns the zero-shot head that `spec_to_json` wrote down."""
    lists = {name: tuple(values[name]) for name in ("classes", "templates")}
    return ZeroShotSpec(**{**values, **lists})


def surgery_from_json(values: Mapping[str, Any] | None) -> SurgerySpec | None:
    """Returns the surgery that a merge's JSON has, None for none."""
    return None if values is None else SurgerySpec(**values)
