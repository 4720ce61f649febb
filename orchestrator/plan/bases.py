"""Works out the bases of a study: one by default, several if the study varies them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from orchestrator.plan.settings import BasePoint
from orchestrator.plan.specs import base_job, pretrain_spec
from orchestrator.study.schema import Study
from workers.specs.bases import BaseJob, BaseSpec
from workers.specs.training import Pretraining


@dataclass(frozen=True, kw_only=True)
class Bases:
    """The bases that a study's experts start from; equal bases appear once."""

    jobs: tuple[BaseJob, ...]
    """The bases without pretraining: random weights, or weights that are read from somewhere."""
    trainings: tuple[Pretraining, ...]
    """The trainings that make the other bases. Bases that differ only in steps share a training."""
    by_point: Mapping[BasePoint, BaseSpec]
    """The base at each point of the study's settings."""
    multi_task: tuple[Pretraining, ...] = ()
    """The trainings of the multi-task models, from which no expert starts."""

    @cached_property
    def by_id(self) -> dict[str, BaseSpec]:
        """All bases and multi-task models by id; bases without pretraining come first."""
        specs = [job.spec for job in self.jobs]
        trainings = (*self.trainings, *self.multi_task)
        specs += [spec for training in trainings for spec in training.outputs]
        return {spec.id: spec for spec in specs}

    @property
    def multi_task_ids(self) -> frozenset[str]:
        """The ids of the multi-task models."""
        return frozenset(each.id for training in self.multi_task for each in training.outputs)

    @property
    def resized_models(self) -> frozenset[str]:
        """The models that are built for the study's image size."""
        return frozenset(job.spec.model for job in self.jobs if job.spec.image_size is not None)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all pretraining."""
        return sum(training.num_steps for training in self.trainings)


def plan_bases(
    study: Study,
    *,
    points: Iterable[BasePoint],
    data_ids: Mapping[str, str],
    resized: Collection[str] = (),
) -> Bases:
    """Returns the bases at some points; reads checkpoint files to compute their digests.

    Args:
        study: A checked study.
        points: The points of the study's settings; repeated points are allowed.
        data_ids: The id of the images of every task that the study fine-tunes or pretrains on.
        resized: The models that must be built for the study's image size.
    """
    jobs: dict[tuple[str, str], BaseJob] = {}
    by_point: dict[BasePoint, BaseSpec] = {}
    for point in dict.fromkeys(points):
        source = (point.model, point.weights)
        if source not in jobs:
            jobs[source] = base_job(
                model=point.model,
                weights=point.weights,
                seed=study.seed,
                image_size=study.backbone.image_size if point.model in resized else None,
            )
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
