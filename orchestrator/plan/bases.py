"""The bases of a study: one by default, several where the study varies them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from orchestrator.plan.settings import BasePoint
from orchestrator.plan.specs import base_job, pretrain_spec
from orchestrator.study.schema import Study
from workers.specs.training import BaseJob, BaseSpec, Pretraining


@dataclass(frozen=True, kw_only=True)
class Bases:
    """What experts start from; equal bases appear once."""

    jobs: tuple[BaseJob, ...]
    """The bases whose weights are there from the start: drawn, or read from somewhere."""
    trainings: tuple[Pretraining, ...]
    """What makes the others out of those; bases that differ only in the number of steps share."""
    by_point: Mapping[BasePoint, BaseSpec]
    """The base at each point of the study's settings."""

    @cached_property
    def by_id(self) -> dict[str, BaseSpec]:
        """All of them by id: those that are pretrained after those that they are made of."""
        specs = [job.spec for job in self.jobs]
        specs += [spec for training in self.trainings for spec in training.outputs]
        return {spec.id: spec for spec in specs}

    @property
    def num_steps(self) -> int:
        """Optimizer steps that pretraining takes."""
        return sum(training.num_steps for training in self.trainings)


def plan_bases(study: Study, *, points: Iterable[BasePoint], data_ids: Mapping[str, str]) -> Bases:
    """Works out the bases at some points; reads the digests of checkpoint files.

    Args:
        study: A checked study.
        points: Those of its settings.
        data_ids: The images of every task that the study fine-tunes or pretrains on.
    """
    jobs: dict[tuple[str, str], BaseJob] = {}
    by_point: dict[BasePoint, BaseSpec] = {}
    for point in dict.fromkeys(points):
        source = (point.model, point.weights)
        if source not in jobs:
            jobs[source] = base_job(model=point.model, weights=point.weights, seed=study.seed)
        pretrain = pretrain_spec(
            study.backbone.pretrain, steps=point.pretrain_steps, data_ids=data_ids
        )
        by_point[point] = replace(jobs[source].spec, pretrain=pretrain)
    return Bases(
        jobs=tuple({job.spec.id: job for job in jobs.values()}.values()),
        trainings=Pretraining.sharing_prefixes(
            base for base in by_point.values() if base.pretrain is not None
        ),
        by_point=by_point,
    )
