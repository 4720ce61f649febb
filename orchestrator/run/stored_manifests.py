"""Reads the manifests of a plan's artifacts, from the store or from the index of the study."""

from collections.abc import Collection, Sequence

from eval.counts import first_names
from orchestrator.plan.plan import Plan
from orchestrator.record.folder import StudyFolder
from workers.artifacts.artifacts import Artifacts, BrokenManifestsError
from workers.artifacts.layout import ArtifactAddress, Layout
from workers.artifacts.manifest_index import ManifestIndex
from workers.artifacts.manifests import Manifest

MIN_INDEXED = 1000
"""The fewest committed artifacts for which a study has an index of their manifests. Fewer are read
one by one within a second or two."""


def stored_manifests(
    artifacts: Artifacts,
    *,
    plan: Plan,
    folder: StudyFolder,
    index: ManifestIndex,
    known: Sequence[Manifest],
) -> list[Manifest]:
    """Returns the manifests of a plan's committed artifacts.

    Args:
        artifacts: The store's artifacts.
        plan: The study's plan.
        folder: The study's folder, for the error.
        index: The study's index, which spares most reads if there are many artifacts.
        known: The manifests that were read when the study was opened with this index before.

    Raises:
        StudyDamagedError: Some manifests are broken; the message names the first.
    """
    planned = {**plan.prepared_ids, "expert": plan.experts.keys(), "merge": plan.merges.keys()}
    prefixes = [each for kind, ids in planned.items() if ids for each in _prefixes(kind, ids)]
    listed = {
        address: entry
        for address, entry in artifacts.listed(prefixes).items()
        if address.id in planned[address.kind]
    }
    found: dict[ArtifactAddress, Manifest] = {}
    if len(listed) >= MIN_INDEXED:
        found = index.unchanged(listed, known=known)
        if len(listed) - len(found) >= MIN_INDEXED:
            found = index.read(listed)
    broken: list[str] = []
    for kind in planned:
        ids = sorted(each.id for each in listed.keys() - found.keys() if each.kind == kind)
        try:
            read = artifacts.find_all(kind, ids)
        except BrokenManifestsError as error:
            broken += [f"{kind} {each}" for each in error.problems]
        else:
            found |= {ArtifactAddress(kind, each): manifest for each, manifest in read.items()}
    if broken:
        names = first_names(broken)
        raise folder.damaged(f"the manifests of {names} differ from their digests")
    return [found[address] for address in listed if address in found]


def _prefixes(kind: str, planned: Collection[str]) -> tuple[str, ...]:
    """Returns the prefixes to list for a kind: one for few artifacts, several for many."""
    is_large = len(planned) >= MIN_INDEXED
    return Layout.artifact_ranges(kind) if is_large else (Layout.artifacts(kind),)
