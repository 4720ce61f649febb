"""Finds the measurements that are committed. They are not in the plan, so the ledger has none."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from workers.artifacts.artifacts import Artifacts, BrokenManifestsError, CorruptArtifactError
from workers.artifacts.layout import ArtifactAddress
from workers.artifacts.manifests import Manifest, ManifestError
from workers.specs.measures import ConstantsSpec, Measurement, OperatorSpec, ReachSpec

_KINDS = {ConstantsSpec: "constants", ReachSpec: "reach", OperatorSpec: "operator"}
_MAX_THREADS = 16


def read_measurements(artifacts: Artifacts, specs: Sequence[Measurement]) -> Mapping[str, Manifest]:
    """Returns the manifests of the committed ones among some measurements, by id.

    Costs a listing for each kind, and a request for each committed measurement.

    Raises:
        StoreError: The store failed.
        CorruptArtifactError: Manifests cannot be read; the message has the remedy.
    """
    found: dict[str, Manifest] = {}
    for kind in dict.fromkeys(_KINDS[type(spec)] for spec in specs):
        wanted = {spec.id for spec in specs if _KINDS[type(spec)] == kind}
        try:
            found |= artifacts.find_all(kind, sorted(artifacts.committed_ids(kind) & wanted))
        except BrokenManifestsError as error:
            raise CorruptArtifactError(f"{error}; {artifacts.remedy(kind)}") from error
    return found


def measured_from(
    artifacts: Artifacts, measurements: Iterable[ArtifactAddress], *, planned: Collection[str]
) -> list[ArtifactAddress]:
    """Returns the measurements that were made from planned artifacts alone.

    Those whose manifest cannot be read are among them, as nothing says what they were made from.
    Costs a request for each.

    Args:
        artifacts: The artifacts of the store.
        measurements: Committed measurements.
        planned: Ids that plans name.
    """

    def is_of_plan(address: ArtifactAddress) -> bool:
        try:
            manifest = artifacts.find(*address)
        except ManifestError:
            return True
        return manifest is not None and all(each in planned for each in manifest.inputs)

    found = list(measurements)
    with ThreadPoolExecutor(_MAX_THREADS) as threads:
        answers = zip(found, threads.map(is_of_plan, found), strict=True)
        return [address for address, is_one in answers if is_one]


def missing(
    specs: Sequence[Measurement], *, found: Mapping[str, Manifest]
) -> tuple[Measurement, ...]:
    """Returns the measurements that are not committed, each once."""
    return tuple({spec.id: spec for spec in specs if spec.id not in found}.values())
