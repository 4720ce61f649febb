"""A frozen snapshot of the artifacts of a plan that the store has."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.plan.plan import Plan
from workers.artifacts.manifests import Manifest
from workers.specs.merge import MergeSpec
from workers.specs.training import PretrainRun, TrialSpec


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A plan and the manifests of its artifacts that were committed at one moment.

    `Ledger.committed` makes it. It never changes, so that any thread may read it without a lock and
    all figures that are computed from one snapshot agree.
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

    @staticmethod
    def copy_of(
        plan: Plan,
        *,
        bases: Mapping[str, Manifest],
        experts: Mapping[str, Manifest],
        merges: Mapping[str, Manifest],
        prepared: Mapping[str, Manifest],
    ) -> "Committed":
        """Returns a snapshot with copies of the mappings."""
        return Committed(
            plan=plan,
            bases=MappingProxyType(dict(bases)),
            experts=MappingProxyType(dict(experts)),
            merges=MappingProxyType(dict(merges)),
            prepared=MappingProxyType(dict(prepared)),
        )

    def missing_trials(self) -> list[TrialSpec]:
        """Returns the remainder of each trial that lacks an expert, in the plan's order."""
        left = (trial.without(self.experts) for trial in self.plan.trials)
        return [trial for trial in left if trial is not None]

    def missing_pretraining(self) -> list[PretrainRun]:
        """Returns the remainder of each pretraining that lacks a base, in the plan's order."""
        left = (run.without(self.bases) for run in self.plan.bases.runs)
        return [run for run in left if run is not None]

    def missing_merges(self) -> list[MergeSpec]:
        """Returns the merge jobs that are not committed, in the plan's order."""
        return [spec for spec in self.plan.merges.values() if spec.id not in self.merges]
