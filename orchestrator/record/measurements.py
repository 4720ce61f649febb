"""Finds the measurements that are committed. They are not in the plan, so the ledger has none."""

from collections.abc import Mapping, Sequence

from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.specs.measures import ConstantsSpec, Measurement, OperatorSpec, ReachSpec

_KINDS = {ConstantsSpec: "constants", ReachSpec: "reach", OperatorSpec: "operator"}


def read_measurements(artifacts: Artifacts, specs: Sequence[Measurement]) -> Mapping[str, Manifest]:
    """Returns the manifests of the committed ones among some measurements, by id.

    Costs a listing for each kind, and a request for each committed measurement.

    Raises:
        StoreError: The store failed.
        BrokenManifestsError: Manifests cannot be read.
    """
    found: dict[str, Manifest] = {}
    for kind in dict.fromkeys(_KINDS[type(spec)] for spec in specs):
        wanted = {spec.id for spec in specs if _KINDS[type(spec)] == kind}
        found |= artifacts.find_all(kind, sorted(artifacts.committed_ids(kind) & wanted))
    return found


def missing(
    specs: Sequence[Measurement], *, found: Mapping[str, Manifest]
) -> tuple[Measurement, ...]:
    """Returns the measurements that are not committed, each once."""
    return tuple({spec.id: spec for spec in specs if spec.id not in found}.values())
