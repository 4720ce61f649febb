"""A frozen snapshot of the artifacts of a plan that the store has."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from orchestrator.plan.plan import Plan
from orchestrator.record.external import ExternalScores
from workers.artifacts.manifests import Manifest
from workers.specs.merge import MergeSpec
from workers.specs.training import Training


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A plan and the manifests of its artifacts that were committed at one moment.

    `Ledger.committed` makes it. It never changes, so that threads read it without a lock and all
    figures that are computed from one snapshot agree.
    """

    plan: Plan
    bases: Mapping[str, Manifest]
    """By id, pretrained bases included."""
    experts: Mapping[str, Manifest]
    """By id; a diverged expert whose weights are not finite has no files."""
    merges: Mapping[str, Manifest]
    """By id."""
    prepared: Mapping[str, Manifest]
    """Bases, images and zero-shot heads by id: `bases`, and all else that experts are made from."""
    missing_trainings: tuple[Training, ...]
    """The remainder of each training that lacks an artifact: pretraining, then trials."""
    external: tuple[ExternalScores, ...] = ()
    """Scores of models that other tools made."""

    @property
    def manifests(self) -> list[Manifest]:
        """All manifests: those that experts are made from, of experts, and of merges."""
        return [*self.prepared.values(), *self.experts.values(), *self.merges.values()]

    def lacks_weights(self, artifact_id: str) -> bool:
        """Returns whether a base or expert is committed without weights: its training diverged."""
        manifest = self.trained(artifact_id)
        return manifest is not None and not manifest.files

    @cached_property
    def diverged(self) -> frozenset[str]:
        """Ids of the experts whose training diverged, also of those that have weights."""
        return frozenset(each for each, made in self.experts.items() if made.outcome == "diverged")

    def has_experts_of(self, spec: MergeSpec) -> bool:
        """Returns whether all experts of a merge job have weights, held-out ones too."""
        manifests = (self.experts.get(expert.id) for expert in spec.members)
        return all(manifest is not None and manifest.files for manifest in manifests)

    def has_choice_of(self, spec: MergeSpec) -> bool:
        """Returns whether the scores that choose the parameters of a merge are complete.

        Scores of groups with a diverged expert or base never come, and are not waited for.
        """
        return not spec.shares_choice or self._over(spec) in self._complete_choices

    def choosing_manifests(self, spec: MergeSpec) -> list[Manifest]:
        """Returns the merges whose scores choose the parameters of a merge with a shared choice."""
        ids = self.plan.choosing_merges[self._over(spec)]
        return [self.merges[each] for each in ids if each in self.merges]

    @cached_property
    def _complete_choices(self) -> frozenset[str]:
        return frozenset(
            over
            for over, ids in self.plan.choosing_merges.items()
            if all(each in self.merges or self._never_comes(each) for each in ids)
        )

    def _never_comes(self, merge_id: str) -> bool:
        spec = self.plan.merges[merge_id]
        inputs = (spec.base_id, *(expert.id for expert in spec.members))
        return any(map(self.lacks_weights, inputs))

    @staticmethod
    def _over(spec: MergeSpec) -> str:
        assert spec.tuning is not None
        assert spec.tuning.over is not None
        return spec.tuning.over

    def trained(self, artifact_id: str) -> Manifest | None:
        """Returns the manifest of a base or expert, None if it is not committed."""
        return self.experts.get(artifact_id) or self.bases.get(artifact_id)

    @cached_property
    def missing_merges(self) -> tuple[MergeSpec, ...]:
        """The merge jobs that are not committed, in the plan's order."""
        return tuple(spec for spec in self.plan.merges.values() if spec.id not in self.merges)
