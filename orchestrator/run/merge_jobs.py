"""Makes the jobs of merges; makes the choices that several merges share."""

from orchestrator.cluster.jobs import Job, JobKind
from orchestrator.record.ledger import Ledger
from workers.artifacts.metrics import TuningMetrics, tuning_of
from workers.merging.choice import ChosenMergeJob, shared_choice
from workers.specs.merge import MergeSpec


class MergeJobs:
    """Makes jobs of a study's merges, and keeps the shared choices: complete ones never change."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._choices: dict[object, TuningMetrics] = {}

    def job(self, spec: MergeSpec) -> Job:
        """Returns the job of a merge that is ready.

        Raises:
            NothingToChooseError: The choice that it shares has no value with a finite loss.
        """
        if not spec.shares_choice:
            return Job(id=spec.id, kind=JobKind.MERGE, argument=spec)
        chosen = ChosenMergeJob(spec=spec, choice=self._choice(spec))
        return Job(id=spec.id, kind=JobKind.CHOSEN_MERGE, argument=chosen)

    def _choice(self, spec: MergeSpec) -> TuningMetrics:
        assert spec.tuning is not None
        key = (spec.tuning.over, spec.tuning.by)
        if key not in self._choices:
            manifests = self._ledger.committed().choosing_manifests(spec)
            tunings = (tuning_of(each.metrics) for each in manifests)
            self._choices[key] = shared_choice(list(filter(None, tunings)), by=spec.tuning.by)
        return self._choices[key]
