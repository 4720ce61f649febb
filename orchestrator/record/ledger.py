"""The ledger of a running study: its threads write to it and take frozen states from it."""

import threading
from collections.abc import Collection, Iterable, Sequence
from types import MappingProxyType

from orchestrator.plan.plan import Plan
from orchestrator.progress.state import Tally
from orchestrator.record.commit_counts import CommitCounts
from orchestrator.record.committed import Committed
from orchestrator.record.external import ExternalScores
from orchestrator.record.study_state import StudyState
from workers.artifacts.manifests import Manifest
from workers.specs.merge import MergeSpec
from workers.specs.training import Training


class Ledger:
    """Records the commits, failures and exclusions of a plan's jobs. Thread-safe.

    `state` and `committed` return frozen copies, made once after each change. A copy takes time in
    proportion to the study. The other methods do not: callbacks for single artifacts use `add`,
    `is_committed` and `experts_of`, and views use `stages`, `axes` and `added_since`.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        manifests: Iterable[Manifest],
        external: Iterable[ExternalScores] = (),
    ) -> None:
        self.plan = plan
        self._external = tuple(external)
        self._lock = threading.Lock()
        self._bases: dict[str, Manifest] = {}
        self._experts: dict[str, Manifest] = {}
        self._merges: dict[str, Manifest] = {}
        self._prepared: dict[str, Manifest] = {}
        self._prepared_ids = plan.prepared_ids
        self._failures: dict[str, str] = {}
        self._left_out: frozenset[str] = frozenset()
        self._added: list[Manifest] = []
        """The manifests of the plan's artifacts, each once, in the order in which they came."""
        self._committed: Committed | None = None
        self._state: StudyState | None = None
        self._begin(plan)
        for manifest in manifests:
            self._keep(manifest)
        self._shorten_all()

    def _begin(self, plan: Plan) -> None:
        """Sets everything that follows from the plan alone."""
        self._counts = CommitCounts(plan)
        self._merges_of = _merges_by_expert(plan)
        self._remainders = {each.id: each for each in plan.trainings}
        """The remainder of each training that lacks an artifact, by the whole training's id."""
        self._training_of = {out.id: each for each in plan.trainings for out in each.outputs}

    def _shorten_all(self) -> None:
        """Shortens each training once, and not once for each of its artifacts as `add` does."""
        made = [self._training_of.get(each) for each in (*self._bases, *self._experts)]
        for training in {each.id: each for each in made if each is not None}.values():
            self._shorten(training)

    def grow(self, plan: Plan, *, manifests: Iterable[Manifest]) -> None:
        """Takes a plan that has everything of the present one, and more.

        Call it between the stages of a run: trainings may have longer remainders afterwards.

        Args:
            plan: The plan from now on.
            manifests: Those of further artifacts that the store has already.
        """
        with self._lock:
            self._committed = self._state = None
            self.plan = plan
            self._prepared_ids = plan.prepared_ids
            self._begin(plan)
            for manifest in self._added:
                self._counts.add(manifest)
            for manifest in manifests:
                self._keep(manifest)
            self._shorten_all()

    def add(self, manifest: Manifest) -> list[MergeSpec]:
        """Records a committed artifact; returns the merge jobs that it makes ready to run.

        It takes back an earlier failure of the artifact: a worker that was thought lost may still
        have committed. An artifact that is not in the plan is ignored.
        """
        with self._lock:
            self._committed = self._state = None
            self._failures.pop(manifest.id, None)
            self._keep(manifest)
            if (training := self._training_of.get(manifest.id)) is not None:
                self._shorten(training)
            if manifest.id not in self._experts:
                return []
            waiting = self._merges_of.get(manifest.id, [])
            return [spec for spec in waiting if self._is_ready(spec)]

    def fail(self, job_id: str, *, reason: str) -> None:
        """Records that a training or merge job is not tried again in this run."""
        with self._lock:
            self._state = None
            self._failures[job_id] = reason

    def leave_out(self, job_ids: Collection[str]) -> None:
        """Records which trainings and merge jobs do not fit the budget; replaces earlier ones."""
        with self._lock:
            self._state = None
            self._left_out = frozenset(job_ids)

    def is_committed(self, artifact_id: str) -> bool:
        """Returns whether an artifact of the plan is committed."""
        with self._lock:
            return self._has(artifact_id)

    def stages(self) -> tuple[Tally, ...]:
        """Returns the progress on bases, images, experts and merges; bases only if several."""
        with self._lock:
            return self._counts.stages()

    def axes(self) -> tuple[Tally, ...]:
        """Returns the progress on the cells of the result table, by axis."""
        with self._lock:
            return self._counts.axes()

    def added_since(self, num_seen: int) -> Sequence[Manifest]:
        """Returns the manifests of the plan's artifacts, each once, without the first `num_seen`.

        They are in the order in which they came, so that whoever counts something of them reads
        each manifest once.
        """
        with self._lock:
            return self._added[num_seen:]

    def experts_of(self, spec: MergeSpec) -> dict[str, Manifest]:
        """Returns the manifests of a merge job's committed experts by id, held-out ones too."""
        with self._lock:
            ids = [expert.id for expert in spec.members]
            return {each: self._experts[each] for each in ids if each in self._experts}

    def committed(self) -> Committed:
        """Returns all committed artifacts, as a frozen snapshot."""
        with self._lock:
            return self._snapshot()

    def state(self) -> StudyState:
        """Returns the committed artifacts, failures and exclusions, as a frozen snapshot."""
        with self._lock:
            if self._state is None:
                self._state = StudyState(
                    committed=self._snapshot(),
                    failures=MappingProxyType(self._failures.copy()),
                    left_out=self._left_out,
                )
            return self._state

    def _has(self, artifact_id: str) -> bool:
        kinds = (self._experts, self._merges, self._prepared)
        return any(artifact_id in manifests for manifests in kinds)

    def _snapshot(self) -> Committed:
        if self._committed is None:
            self._committed = Committed(
                plan=self.plan,
                bases=MappingProxyType(self._bases.copy()),
                experts=MappingProxyType(self._experts.copy()),
                merges=MappingProxyType(self._merges.copy()),
                prepared=MappingProxyType(self._prepared.copy()),
                missing_trainings=tuple(self._remainders.values()),
                external=self._external,
            )
        return self._committed

    def _keep(self, manifest: Manifest) -> None:
        """Keeps a manifest if its artifact is in the plan."""
        is_new = not self._has(manifest.id)
        if manifest.kind == "base" and manifest.id in self.plan.bases.by_id:
            self._bases[manifest.id] = manifest
        if manifest.id in self._prepared_ids.get(manifest.kind, ()):
            self._prepared[manifest.id] = manifest
        if manifest.kind == "merge" and manifest.id in self.plan.merges:
            self._merges[manifest.id] = manifest
        if manifest.kind == "expert" and manifest.id in self.plan.experts:
            self._experts[manifest.id] = manifest
        if is_new and self._has(manifest.id):
            self._added.append(manifest)
            self._counts.add(manifest)

    def _shorten(self, training: Training) -> None:
        """Takes the committed artifacts of a training out of its remainder."""
        committed = self._bases if training.output_kind == "base" else self._experts
        remainder = training.without(committed)
        if remainder is None:
            self._remainders.pop(training.id, None)
        else:
            self._remainders[training.id] = remainder

    def _is_ready(self, spec: MergeSpec) -> bool:
        """Returns whether a merge job is not done, has not failed, and has all experts' weights.

        A merge with a shared choice is never ready here: its stage finds it in a frozen state.
        """
        if spec.id in self._merges or spec.id in self._failures or spec.shares_choice:
            return False
        manifests = (self._experts.get(expert.id) for expert in spec.members)
        return all(manifest is not None and manifest.files for manifest in manifests)


def _merges_by_expert(plan: Plan) -> dict[str, list[MergeSpec]]:
    """Returns the merge jobs that need each expert, by the expert's id."""
    index: dict[str, list[MergeSpec]] = {}
    for spec in plan.merges.values():
        for expert in spec.members:
            index.setdefault(expert.id, []).append(spec)
    return index
