"""Keeps count of a plan: what is committed, what has become ready, what failed, what is left."""

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from orchestrator.plan.plan import Plan
from orchestrator.progress.state import Tally
from orchestrator.record.committed import Committed
from orchestrator.record.holes import LEFT_OUT, Hole
from workers.artifacts.manifests import Manifest
from workers.specs.merge import MergeSpec
from workers.specs.training import PretrainRun, Run, TrialSpec


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How far a study is."""

    num_experts: int
    num_experts_done: int
    num_merges: int
    num_merges_done: int
    num_merges_blocked: int
    num_failed: int


class Ledger:
    """Thread-safe; knows a plan's artifacts by their manifests and nothing of how they are made."""

    def __init__(self, plan: Plan, *, manifests: Iterable[Manifest]) -> None:
        self.plan = plan
        self._lock = threading.Lock()
        self._bases: dict[str, Manifest] = {}
        self._experts: dict[str, Manifest] = {}
        self._merges: dict[str, Manifest] = {}
        self._prepared: dict[str, Manifest] = {}
        self._snapshot: Committed | None = None
        """The last snapshot, as long as nothing was added since."""
        self._prepared_ids = plan.prepared_ids
        self._failures: dict[str, str] = {}
        self._left_out: frozenset[str] = frozenset()
        self._merges_of = self._index_merges()
        for manifest in manifests:
            self.add(manifest)

    def _index_merges(self) -> dict[str, list[MergeSpec]]:
        index: dict[str, list[MergeSpec]] = {}
        for spec in self.plan.merges.values():
            for expert in (*spec.experts, *spec.held_out):
                index.setdefault(expert.id, []).append(spec)
        return index

    def add(self, manifest: Manifest) -> list[MergeSpec]:
        """Notes a committed artifact; returns the merge jobs that it makes ready to run."""
        with self._lock:
            self._snapshot = None
            self._failures.pop(manifest.id, None)
            if manifest.kind == "base" and manifest.id in self.plan.bases.by_id:
                self._bases[manifest.id] = manifest
            if manifest.id in self._prepared_ids.get(manifest.kind, ()):
                self._prepared[manifest.id] = manifest
            if manifest.kind == "merge" and manifest.id in self.plan.merges:
                self._merges[manifest.id] = manifest
            if manifest.kind != "expert" or manifest.id not in self.plan.experts:
                return []
            self._experts[manifest.id] = manifest
            waiting = self._merges_of.get(manifest.id, [])
            return [spec for spec in waiting if self._is_ready(spec)]

    def committed(self) -> Committed:
        """Returns a snapshot of all that is committed.

        It is copied once after each `add`, which costs time in proportion to the study: callbacks
        of single artifacts use `is_committed` and `experts_of`.
        """
        with self._lock:
            if self._snapshot is None:
                self._snapshot = Committed.copy_of(
                    self.plan,
                    bases=self._bases,
                    experts=self._experts,
                    merges=self._merges,
                    prepared=self._prepared,
                )
            return self._snapshot

    def is_committed(self, artifact_id: str) -> bool:
        """Returns whether an artifact of the plan is committed."""
        with self._lock:
            kinds = (self._experts, self._merges, self._prepared)
            return any(artifact_id in manifests for manifests in kinds)

    def experts_of(self, spec: MergeSpec) -> dict[str, Manifest]:
        """Returns the manifests of a merge job's committed experts by id, held-out ones too."""
        with self._lock:
            ids = [expert.id for expert in (*spec.experts, *spec.held_out)]
            return {each: self._experts[each] for each in ids if each in self._experts}

    def fail(self, artifact_id: str, *, reason: str) -> None:
        """Notes that a pretraining, trial or merge job will not be tried again."""
        with self._lock:
            self._failures[artifact_id] = reason

    def leave_out(self, ids: Collection[str]) -> None:
        """Notes which trials and merge jobs do not fit the budget, in place of the ones before."""
        with self._lock:
            self._left_out = frozenset(ids)

    def ready_merges(self) -> list[MergeSpec]:
        """Returns the merge jobs that are not done and could run now, in the plan's order."""
        with self._lock:
            return [spec for spec in self.plan.merges.values() if self._is_ready(spec)]

    def missing_trials(self) -> list[TrialSpec]:
        """Returns what is left of each trial that has an expert missing, in the plan's order."""
        with self._lock:
            return self._left()

    def missing_pretraining(self) -> list[PretrainRun]:
        """Returns what is left of each pretraining that has a base missing."""
        with self._lock:
            return self._left_of_pretraining()

    def runnable_trials(self) -> list[Run]:
        """Returns what could run now and has not failed for good: pretraining, then trials.

        Trials of a base that is pretrained in this study wait for it. Any other base is prepared
        before the first trial.
        """
        possible = self.possible_runs()
        with self._lock:
            waiting = {base.id for run in self.plan.bases.runs for base in run.bases}
            waiting -= self._bases.keys()
            return [
                run
                for run in possible
                if not (isinstance(run, TrialSpec) and run.longest.base_id in waiting)
            ]

    def possible_runs(self) -> list[Run]:
        """Returns what is missing and waits for nothing that can never be made.

        Pretraining, then trials, those among them whose base is still to be pretrained.
        """
        with self._lock:
            failed = self._failed_bases()
            trials = (
                trial
                for trial in self._left()
                if trial.longest.base_id not in failed
                and not self._has_diverged(trial.longest.base_id)
            )
            left: list[Run] = [*self._left_of_pretraining(), *trials]
            return [run for run in left if run.id not in self._failures]

    def possible_merges(self) -> list[MergeSpec]:
        """Returns the merge jobs that are missing and wait for nothing that can never be made."""
        with self._lock:
            failed = self._failures_by_expert()
            return [
                spec
                for spec in self.plan.merges.values()
                if spec.id not in self._merges
                and spec.id not in self._failures
                and not self._blocked_by(spec, failed=failed)
            ]

    def is_finished(self) -> bool:
        """Tells whether nothing is left to run: what is missing can never be made."""
        left = (*self.missing_pretraining(), *self._unblocked_trials(), *self.ready_merges())
        return not left

    def _unblocked_trials(self) -> list[TrialSpec]:
        """Returns the missing trials without those whose base has no weights."""
        left = self.missing_trials()
        with self._lock:
            return [trial for trial in left if not self._has_diverged(trial.longest.base_id)]

    def _has_diverged(self, base_id: str) -> bool:
        manifest = self._bases.get(base_id)
        return manifest is not None and not manifest.files

    def counts(self) -> Counts:
        """Returns how far the study is."""
        with self._lock:
            failed = self._failures_by_expert()
            merges = self.plan.merges.values()
            blocked = [spec for spec in merges if self._blocked_by(spec, failed=failed)]
            return Counts(
                num_experts=len(self.plan.experts),
                num_experts_done=len(self._experts),
                num_merges=len(self.plan.merges),
                num_merges_done=len(self._merges),
                num_merges_blocked=len(blocked),
                num_failed=len(self._failures),
            )

    def stages(self) -> tuple[Tally, ...]:
        """Returns how many bases, images, experts and merges there are; bases only if several."""
        with self._lock:
            done = {
                "bases": (len(self._bases), len(self.plan.bases.by_id)),
                "images": (
                    sum(data.id in self._prepared for data in self.plan.datasets),
                    len(self.plan.datasets),
                ),
                "experts": (len(self._experts), len(self.plan.experts)),
                "merges": (len(self._merges), len(self.plan.merges)),
            }
        return tuple(
            Tally(name=name, num_done=num, num_planned=planned)
            for name, (num, planned) in done.items()
            if name != "bases" or planned > 1
        )

    def axes(self) -> tuple[Tally, ...]:
        """Returns how many entries of the result table there are, by axis."""
        planned: dict[str, int] = {}
        done: dict[str, int] = {}
        with self._lock:
            for cell in self.plan.cells:
                axis = cell.setting.axis
                planned[axis] = planned.get(axis, 0) + 1
                done[axis] = done.get(axis, 0) + (cell.merge.id in self._merges)
        return tuple(
            Tally(name=axis, num_done=done[axis], num_planned=num) for axis, num in planned.items()
        )

    def holes(self) -> tuple[Hole, ...]:
        """Returns what the study's tables lack, and why."""
        with self._lock:
            return (*self._base_holes(), *self._expert_holes(), *self._merge_holes())

    def _base_holes(self) -> Iterable[Hole]:
        failed = self._failed_bases()
        left_out = {
            base.id
            for run in self._left_of_pretraining()
            if run.id in self._left_out
            for base in run.bases
        }
        for run in self.plan.bases.runs:
            for base, steps in zip(run.bases, run.snapshots, strict=True):
                what = f"base {base.id}: {base.model} after {steps} steps of pretraining"
                if base.id in failed:
                    yield Hole(kind="failed", what=what, reason=failed[base.id])
                elif base.id not in self._bases:
                    yield self._not_run(what, is_left_out=base.id in left_out)
                elif self._has_diverged(base.id):
                    taken = self._bases[base.id].metrics["steps_taken"]
                    yield Hole(kind="diverged", what=what, reason=f"not finite after {taken} steps")

    def _failed_bases(self) -> Mapping[str, str]:
        """Returns why bases cannot be made, by their ids: all that is left of a run fails."""
        if not self._failures:
            return {}
        return {
            base.id: self._failures[run.id]
            for run in self._left_of_pretraining()
            if run.id in self._failures
            for base in run.bases
        }

    def _blocking_base(self, base_id: str) -> str:
        """Says which base failed, or has no weights; empty when none."""
        if base_id in self._failed_bases():
            return f"failed base {base_id}"
        return f"diverged base {base_id}" if self._has_diverged(base_id) else ""

    def _expert_holes(self) -> Iterable[Hole]:
        failed = self._failures_by_expert()
        left_out = {
            expert.id
            for trial in self._left()
            if trial.id in self._left_out
            for expert in trial.experts
        }
        for expert_id, expert in self.plan.experts.items():
            lr, steps = expert.hyperparameters.lr, expert.hyperparameters.steps
            what = f"expert {expert_id}: {expert.task} at lr={lr}, steps={steps}"
            manifest = self._experts.get(expert_id)
            if expert_id in failed:
                yield Hole(kind="failed", what=what, reason=failed[expert_id])
            elif manifest is None:
                if blocked := self._blocking_base(expert.base_id):
                    yield Hole(kind="not run", what=what, reason=f"blocked by {blocked}")
                else:
                    yield self._not_run(what, is_left_out=expert_id in left_out)
            elif not manifest.files:
                steps = manifest.metrics["steps_taken"]
                yield Hole(kind="diverged", what=what, reason=f"not finite after {steps} steps")

    def _merge_holes(self) -> Iterable[Hole]:
        failed = self._failures_by_expert()
        for cell in self.plan.cells:
            merge_id = cell.merge.id
            what = f"merge {merge_id}: {cell.label} on {cell.group.name} at {cell.setting.name}"
            if merge_id in self._failures:
                yield Hole(kind="failed", what=what, reason=self._failures[merge_id])
            elif merge_id not in self._merges:
                if blocked := self._blocked_by(cell.merge, failed=failed):
                    yield Hole(kind="not run", what=what, reason=f"blocked by {blocked}")
                else:
                    yield self._not_run(what, is_left_out=merge_id in self._left_out)

    @staticmethod
    def _not_run(what: str, *, is_left_out: bool) -> Hole:
        if is_left_out:
            return Hole(kind=LEFT_OUT, what=what, reason="what is left of the budget is too little")
        return Hole(kind="not run", what=what, reason="not run yet")

    def _left(self) -> list[TrialSpec]:
        left = (trial.without(self._experts) for trial in self.plan.trials)
        return [trial for trial in left if trial is not None]

    def _left_of_pretraining(self) -> list[PretrainRun]:
        left = (run.without(self._bases) for run in self.plan.bases.runs)
        return [run for run in left if run is not None]

    def _failures_by_expert(self) -> Mapping[str, str]:
        if not self._failures:
            return {}
        # By what is left: its id is that of the longest expert still missing.
        return {
            expert.id: self._failures[trial.id]
            for trial in self._left()
            if trial.id in self._failures
            for expert in trial.experts
        }

    def _is_ready(self, spec: MergeSpec) -> bool:
        if spec.id in self._merges or spec.id in self._failures:
            return False
        members = (*spec.experts, *spec.held_out)
        return all(self._has_weights(expert.id) for expert in members)

    def _has_weights(self, expert_id: str) -> bool:
        manifest = self._experts.get(expert_id)
        return manifest is not None and bool(manifest.files)

    def _blocked_by(self, spec: MergeSpec, *, failed: Mapping[str, str]) -> str:
        """Says which expert or base failed, or exists but has no weights; empty when none."""
        if spec.id in self._merges:
            return ""
        for expert in (*spec.experts, *spec.held_out):
            if expert.id in failed:
                return f"failed expert {expert.id} of {expert.task}"
            manifest = self._experts.get(expert.id)
            if manifest is not None and not manifest.files:
                return f"{manifest.outcome} expert {expert.id} of {expert.task}"
            if manifest is None and (base := self._blocking_base(expert.base_id)):
                return base
        return ""
