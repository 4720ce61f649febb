"""The state of a study at one moment: its committed artifacts, failures, and what can still run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.record.holes import (
    Blocker,
    Hole,
    MissingBase,
    MissingExpert,
    MissingMerge,
    Outcome,
)
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import steps_taken
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.specs.training import Training


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The numbers of experts and merges of a study that are done, blocked and failed."""

    num_experts: int
    num_experts_done: int
    num_merges: int
    num_merges_done: int
    num_merges_blocked: int
    num_failed: int
    """Trainings and merge jobs that failed on every try of this run."""


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """The frozen state of a study at one moment; `Ledger.state` makes it.

    All answers of one state agree with one another.
    """

    committed: Committed
    failures: Mapping[str, str]
    """Reasons of the trainings and merge jobs that are not tried again in this run, by id."""
    left_out: frozenset[str]
    """Ids of the trainings and merge jobs that the budget has no room for."""

    @property
    def plan(self) -> Plan:
        """The study's plan."""
        return self.committed.plan

    @cached_property
    def possible_trainings(self) -> tuple[Training, ...]:
        """The missing trainings that can still run, without failed ones.

        Trials cannot run on a base that failed or has no weights. They can run on a base that is
        still to be pretrained.
        """
        return tuple(
            training
            for training in self.committed.missing_trainings
            if training.id not in self.failures and self._base_blocker(training.base_id) is None
        )

    @cached_property
    def runnable_trainings(self) -> tuple[Training, ...]:
        """The possible trainings whose base does not have to be pretrained first.

        A base without pretraining counts as present: it is prepared before any training starts.
        """
        pretrained = {base.id for each in self.plan.bases.trainings for base in each.outputs}
        waiting = pretrained - self.committed.bases.keys()
        return tuple(each for each in self.possible_trainings if each.base_id not in waiting)

    @cached_property
    def possible_merges(self) -> tuple[MergeSpec, ...]:
        """The missing merge jobs that can still run, in the plan's order."""
        return tuple(
            spec
            for spec in self.committed.missing_merges
            if spec.id not in self.failures and self._merge_blocker(spec) is None
        )

    @cached_property
    def ready_merges(self) -> tuple[MergeSpec, ...]:
        """The possible merge jobs whose experts all have weights, in the plan's order.

        A shared choice of parameters is complete as well.
        """
        committed = self.committed
        return tuple(
            spec
            for spec in self.possible_merges
            if committed.has_experts_of(spec) and committed.has_choice_of(spec)
        )

    @property
    def is_finished(self) -> bool:
        """Returns whether another run has nothing to do: no missing artifact can be made any more.

        Failed trainings are not finished, as another run tries them again.
        """
        committed = self.committed
        has_trainings = any(
            not committed.lacks_weights(t.base_id) for t in committed.missing_trainings
        )
        return not has_trainings and not self.ready_merges

    def counts(self) -> Counts:
        """Returns how many experts and merges are done, blocked and failed."""
        merges = self.plan.merges
        return Counts(
            num_experts=len(self.plan.experts),
            num_experts_done=len(self.committed.experts),
            num_merges=len(merges),
            num_merges_done=len(self.committed.merges),
            num_merges_blocked=sum(
                self._merge_blocker(spec) is not None for spec in self.committed.missing_merges
            ),
            num_failed=len(self.failures),
        )

    def holes(self) -> tuple[Hole, ...]:
        """Returns the missing pretrained bases, experts and merges, in the plan's order.

        A merge that several cells of the result table show is one hole in each.
        """
        return (*self._base_holes(), *self._expert_holes(), *self._merge_holes())

    def _base_holes(self) -> Iterator[Hole]:
        bases = self.plan.bases
        for training in (*bases.trainings, *bases.multi_task):
            tasks = training.recipe.tasks if training.recipe.heads == "per_task" else ()
            for base in training.outputs:
                steps = base.hyperparameters.steps
                missing = MissingBase(model=base.model, steps=steps, multi_task=tasks)
                manifest = self.committed.bases.get(base.id)
                if manifest is None:
                    yield self._missing_output(base.id, missing, base_id=base.initial.id)
                elif self.committed.lacks_weights(base.id):
                    yield _diverged(manifest, missing)

    def _expert_holes(self) -> Iterator[Hole]:
        for expert in self.plan.experts.values():
            used = expert.hyperparameters
            missing = MissingExpert(task=expert.task, lr=used.lr, steps=used.steps)
            manifest = self.committed.experts.get(expert.id)
            if manifest is None:
                yield self._missing_output(expert.id, missing, base_id=expert.base_id)
            elif not manifest.files and expert.evaluate_on == "test":
                yield _diverged(manifest, missing)

    def _merge_holes(self) -> Iterator[Hole]:
        for cell in self.plan.all_cells:
            is_committed = cell.merge.id in self.committed.merges
            if is_committed and self.committed.has_experts_of(cell.merge):
                continue
            missing = MissingMerge(
                method=cell.label, group=cell.group.name, setting=cell.setting.name
            )
            blocker = self._merge_blocker(cell.merge)
            is_candidate = cell.merge.evaluate_on == "validation"
            if is_candidate and blocker is not None and blocker.outcome is Outcome.DIVERGED:
                continue  # a search goes on without a candidate that diverged
            if is_committed and blocker is None:
                blocker = self._missing_expert(cell.merge)
            yield self._missing(
                cell.merge.id,
                missing,
                error=self.failures.get(cell.merge.id),
                blocked_by=blocker,
                is_left_out=cell.merge.id in self.left_out,
            )

    def _missing_output(
        self, output_id: str, missing: MissingBase | MissingExpert, *, base_id: str
    ) -> Hole:
        """Returns the hole of an artifact of a training."""
        return self._missing(
            output_id,
            missing,
            error=self._failed_outputs.get(output_id),
            blocked_by=self._base_blocker(base_id),
            is_left_out=output_id in self._left_out_outputs,
        )

    @staticmethod
    def _missing(
        artifact_id: str,
        artifact: MissingBase | MissingExpert | MissingMerge,
        *,
        error: str | None,
        blocked_by: Blocker | None,
        is_left_out: bool,
    ) -> Hole:
        """Returns the hole of an artifact that is not committed; the first reason counts."""
        if error is not None:
            return Hole(id=artifact_id, artifact=artifact, outcome=Outcome.FAILED, error=error)
        is_left_out = is_left_out and blocked_by is None
        outcome = Outcome.LEFT_OUT if is_left_out else Outcome.NOT_RUN
        return Hole(id=artifact_id, artifact=artifact, outcome=outcome, blocked_by=blocked_by)

    @cached_property
    def _failed_outputs(self) -> Mapping[str, str]:
        """The reasons of failed trainings, by the ids of the artifacts that each did not commit."""
        return {
            output.id: self.failures[training.id]
            for training in self.committed.missing_trainings
            if training.id in self.failures
            for output in training.outputs
        }

    @cached_property
    def _left_out_outputs(self) -> frozenset[str]:
        """The ids of the artifacts of trainings that the budget has no room for."""
        return frozenset(
            output.id
            for training in self.committed.missing_trainings
            if training.id in self.left_out
            for output in training.outputs
        )

    def _base_blocker(self, base_id: str) -> Blocker | None:
        """Returns a base as blocker if its training failed or diverged, None otherwise."""
        if base_id in self._failed_outputs:
            return Blocker(kind="base", id=base_id, outcome=Outcome.FAILED)
        if self.committed.lacks_weights(base_id):
            return Blocker(kind="base", id=base_id, outcome=Outcome.DIVERGED)
        return None

    def _merge_blocker(self, spec: MergeSpec) -> Blocker | None:
        """Returns the first expert, base or choosing merge without which one cannot be made."""
        blocker = next(filter(None, map(self._expert_blocker, spec.members)), None)
        if blocker is None and spec.tuning is not None and spec.tuning.over is not None:
            return self._choice_blockers[spec.tuning.over]
        return blocker

    @cached_property
    def _choice_blockers(self) -> Mapping[str, Blocker | None]:
        """The first failed merge or expert that keeps each shared choice from being complete."""
        return {
            over: next(filter(None, map(self._choosing_blocker, ids)), None)
            for over, ids in self.plan.choosing_merges.items()
        }

    def _choosing_blocker(self, merge_id: str) -> Blocker | None:
        if merge_id in self.committed.merges:
            return None
        if merge_id in self.failures:
            return Blocker(kind="merge", id=merge_id, outcome=Outcome.FAILED)
        blocker = self._merge_blocker(self.plan.merges[merge_id])
        return None if blocker is None or blocker.outcome is Outcome.DIVERGED else blocker

    def _missing_expert(self, spec: MergeSpec) -> Blocker:
        """Returns the first missing expert of a merge that was made before its expert was lost."""
        lost = next(each for each in spec.members if each.id not in self.committed.experts)
        return Blocker(kind="expert", id=lost.id, outcome=Outcome.NOT_RUN, task=lost.task)

    def _expert_blocker(self, expert: ExpertSpec) -> Blocker | None:
        """Returns an expert without weights, or its base, as blocker; None for any other expert."""
        if expert.id in self._failed_outputs:
            outcome = Outcome.FAILED
        elif self.committed.lacks_weights(expert.id):
            outcome = Outcome.DIVERGED
        elif expert.id in self.committed.experts:
            return None
        else:
            return self._base_blocker(expert.base_id)
        return Blocker(kind="expert", id=expert.id, outcome=outcome, task=expert.task)


def _diverged(manifest: Manifest, artifact: MissingBase | MissingExpert) -> Hole:
    """Returns the hole of an artifact that was committed without weights."""
    return Hole(
        id=manifest.id,
        artifact=artifact,
        outcome=Outcome.DIVERGED,
        steps_taken=steps_taken(manifest.metrics),
    )
