"""Specifications as the plain values that manifests carry, and back."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from workers.specs.data import DataSpec, ZeroShotSpec
from workers.specs.merge import MergeSpec, SurgerySpec
from workers.specs.training import BaseSpec, ExpertSpec

ArtifactSpec = BaseSpec | DataSpec | ZeroShotSpec | ExpertSpec | MergeSpec
"""A specification of any kind of artifact."""


def spec_to_json(spec: ArtifactSpec) -> dict[str, Any]:
    """Returns a specification as the plain values that its manifest carries.

    A merge names its experts by id; their own manifests say what they are.
    """
    if isinstance(spec, BaseSpec | ExpertSpec):
        return spec.to_json()
    if not isinstance(spec, MergeSpec):
        return asdict(spec)
    return {
        **asdict(replace(spec, experts=(), held_out=())),
        "experts": {expert.task: expert.id for expert in spec.experts},
        "held_out": {expert.task: expert.id for expert in spec.held_out},
    }


def head_from_json(values: Mapping[str, Any]) -> ZeroShotSpec:
    """Returns the zero-shot head that `spec_to_json` wrote down."""
    lists = {name: tuple(values[name]) for name in ("classes", "templates")}
    return ZeroShotSpec(**{**values, **lists})


def surgery_from_json(values: Mapping[str, Any] | None) -> SurgerySpec | None:
    """Returns the surgery that a merge's JSON has, None for none."""
    return None if values is None else SurgerySpec(**values)
