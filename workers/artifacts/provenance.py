"""Identity and origin of an artifact."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.specs.ids import VERSIONS, ArtifactSpec


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The identity of an artifact, with the specification and inputs that it was made from."""

    kind: str
    """Kind of the artifact, such as `expert` or `merge`."""

    id: str
    """Content id, computed from kind, version, specification and input ids."""

    version: int
    """Version of the kind, from `workers.specs.ids.VERSIONS`."""

    spec: Mapping[str, Any]
    """The specification as plain values: everything that defines the result."""

    inputs: Mapping[str, str]
    """Artifacts that were read to make this one: id to the digest of the manifest."""

    @staticmethod
    def of(spec: ArtifactSpec, *, kind: str, inputs: Mapping[str, str]) -> "Provenance":
        """Returns the provenance of an artifact that was made from a specification."""
        return Provenance(
            kind=kind,
            id=spec.id,
            version=VERSIONS[kind],
            spec=spec.to_json(),
            inputs=inputs,
        )
