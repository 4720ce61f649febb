"""Writes and reads `plan.json`, the file in a study's folder that says what the study consists of.

A driver writes the file before anything runs. Workers find a job in it (`workers.planned`), later
runs of the study keep its groups, and `verify` and `gc` read which artifacts the study uses.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from eval.task_source import TaskSource, source_from_json, source_to_json
from workers.specs.bases import BaseSpec
from workers.specs.data import DataSpec
from workers.specs.head import ZeroShotSpec
from workers.specs.merge import MergeSpec
from workers.specs.own_method import OwnMethodSpec, sha256_of_source
from workers.specs.training import TrialSpec

PLAN_FILE = "plan.json"
"""Name of the file. Replaced plans have this name and a number: `plan.json.0001`."""

Json = Mapping[str, Any]


class PlanFileError(ValueError):
    """The fields are not those of a plan."""


@dataclass(frozen=True, kw_only=True)
class GroupSampling:
    """Everything that determines which groups are sampled."""

    tasks: tuple[str, ...]
    """Sorted by name."""
    sizes: tuple[int, ...]
    """Tasks per group, ascending."""
    count: int
    """Groups per size."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class PlannedData:
    """The images of one task."""

    id: str
    spec: Json
    """The JSON of a `DataSpec`."""


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """One trial and the experts that it commits."""

    id: str
    snapshots: Mapping[int, str]
    """The ids of the experts, by step count."""
    longest: Json
    """The JSON of the `ExpertSpec` with the most steps."""
    goes_on_to: str | None = None
    """The id of an expert with more steps, under which a paused trial leaves a checkpoint; None if
    nothing may go on from its end."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One entry of the result table."""

    axis: str
    value: str
    method: str
    """The method's label."""
    group: str
    """The group's name."""
    merge: str
    """The merge's id."""


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """The content of `plan.json`.

    Specifications stay in their JSON form, beside the ids that the file gives them. A later release
    that can no longer read a specification still learns from the ids which artifacts are in use.
    """

    study: str
    sampling: GroupSampling
    groups: Mapping[str, tuple[str, ...]]
    """The tasks of each group by the group's name, in the order of the sampling."""
    bases: Mapping[str, Json]
    """The JSON of each `BaseSpec`, by id."""
    heads: Mapping[str, Json]
    """The JSON of each `ZeroShotSpec`, by id; empty if no head is zero-shot."""
    data: Mapping[str, PlannedData]
    """By task."""
    sources: Mapping[str, Json]
    """The JSON of each `TaskSource`, by task."""
    trials: tuple[PlannedTrial, ...]
    merges: Mapping[str, Json]
    """The fields of each `MergeSpec`, by id; `experts`, `held_out` and `pool` list ids."""
    cells: tuple[PlannedCell, ...]
    study_sha256: str | None = None
    """Digest of the study file's text; None for a plan that is printed and not stored."""

    @staticmethod
    def of(
        *,
        study: str,
        sampling: GroupSampling,
        groups: Mapping[str, tuple[str, ...]],
        bases: Iterable[BaseSpec],
        heads: Iterable[ZeroShotSpec],
        data: Iterable[DataSpec],
        sources: Mapping[str, TaskSource],
        trials: Iterable[TrialSpec],
        merges: Iterable[MergeSpec],
        cells: Iterable[PlannedCell],
    ) -> "PlanFile":
        """Returns the file for specifications of this release."""
        return PlanFile(
            study=study,
            sampling=sampling,
            groups=groups,
            bases={base.id: base.to_json() for base in bases},
            heads={head.id: head.to_json() for head in heads},
            data={each.task: PlannedData(id=each.id, spec=each.to_json()) for each in data},
            sources={name: source_to_json(source) for name, source in sources.items()},
            trials=tuple(_planned_trial(trial) for trial in trials),
            merges={merge.id: _merge_to_json(merge) for merge in merges},
            cells=tuple(cells),
        )

    def artifact_ids(self) -> dict[str, frozenset[str]]:
        """Returns the ids of all artifacts of the study, by kind."""
        experts = (each for trial in self.trials for each in trial.snapshots.values())
        return {
            "base": frozenset(self.bases),
            "head": frozenset(self.heads),
            "data": frozenset(each.id for each in self.data.values()),
            "expert": frozenset(experts),
            "merge": frozenset(self.merges),
        }

    def checkpoint_ids(self) -> frozenset[str]:
        """Returns the ids under which paused trials leave checkpoints for later ones."""
        return frozenset(filter(None, (trial.goes_on_to for trial in self.trials)))

    def source(self, task: str) -> TaskSource:
        """Returns where a task's files lie.

        Raises:
            UnknownTaskError: The task is of a catalogue that this release does not have.
        """
        return source_from_json(task, self.sources[task])

    def own_methods(self) -> dict[str, OwnMethodSpec]:
        """Returns the methods that users wrote, by name.

        Raises:
            KeyError, TypeError: Another release wrote them in another form.
        """
        found = (each["own_method"] for each in self.merges.values() if "own_method" in each)
        return {each["name"]: OwnMethodSpec.from_json(each) for each in found}

    def method_files(self) -> frozenset[str]:
        """Returns the digests of the files of users' methods."""
        sources = (
            each["own_method"]["source"] for each in self.merges.values() if "own_method" in each
        )
        return frozenset(filter(None, map(sha256_of_source, sources)))

    def resized_models(self) -> frozenset[str]:
        """Returns the models that are built for the study's image size, not for their own."""
        return frozenset(each["model"] for each in self.bases.values() if "image_size" in each)

    def own_sources(self) -> dict[str, TaskSource]:
        """Returns the sources of the study's own tasks, by name."""
        own = (name for name, source in self.sources.items() if source["own"] is not None)
        return {name: self.source(name) for name in own}

    def to_json(self) -> dict[str, Any]:
        """Returns the fields of the file."""
        fields = {
            "study": self.study,
            "groups_drawn_from": asdict(self.sampling),
            "groups": dict(self.groups),
            "bases": dict(self.bases),
            "heads": dict(self.heads),
            "data": {task: {"id": each.id, **each.spec} for task, each in self.data.items()},
            "sources": dict(self.sources),
            "trials": [_trial_to_json(trial) for trial in self.trials],
            "merges": dict(self.merges),
            "cells": [asdict(cell) for cell in self.cells],
        }
        return fields if self.study_sha256 is None else fields | {"study_sha256": self.study_sha256}

    @staticmethod
    def from_json(fields: Json) -> "PlanFile":
        """Returns the plan whose `to_json` returned the fields.

        Raises:
            PlanFileError: A field is missing or has another type.
        """
        try:
            return PlanFile(
                study=fields["study"],
                sampling=_sampling_from_json(fields["groups_drawn_from"]),
                groups=_groups_from_json(fields["groups"]),
                bases=dict(fields["bases"]),
                heads=dict(fields["heads"]),
                data={task: _data_from_json(each) for task, each in fields["data"].items()},
                sources=dict(fields["sources"]),
                trials=tuple(_trial_from_json(each) for each in fields["trials"]),
                merges=dict(fields["merges"]),
                cells=tuple(PlannedCell(**each) for each in fields["cells"]),
                study_sha256=fields.get("study_sha256"),
            )
        except KeyError as error:
            raise PlanFileError(f"has no field {error}") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise PlanFileError(f"has a field of another form: {error}") from error


def _planned_trial(trial: TrialSpec) -> PlannedTrial:
    ids = (expert.id for expert in trial.outputs)
    return PlannedTrial(
        id=trial.id,
        snapshots=dict(zip(trial.snapshots, ids, strict=True)),
        longest=trial.longest.to_json(),
        goes_on_to=None if trial.goes_on_to is None else trial.goes_on_to.id,
    )


def _merge_to_json(merge: MergeSpec) -> dict[str, Any]:
    return {
        **merge.to_json(),
        "experts": [expert.id for expert in merge.experts],
        "held_out": [expert.id for expert in merge.held_out],
    }


def _trial_to_json(trial: PlannedTrial) -> dict[str, Any]:
    snapshots = {str(steps): expert_id for steps, expert_id in trial.snapshots.items()}
    goes_on = {} if trial.goes_on_to is None else {"goes_on_to": trial.goes_on_to}
    return {"id": trial.id, "snapshots": snapshots, "longest": dict(trial.longest), **goes_on}


def _trial_from_json(fields: Json) -> PlannedTrial:
    snapshots = {int(steps): expert_id for steps, expert_id in fields["snapshots"].items()}
    return PlannedTrial(
        id=fields["id"],
        snapshots=snapshots,
        longest=fields["longest"],
        goes_on_to=fields.get("goes_on_to"),
    )


def _data_from_json(fields: Json) -> PlannedData:
    spec = {name: value for name, value in fields.items() if name != "id"}
    return PlannedData(id=fields["id"], spec=spec)


def _sampling_from_json(fields: Json) -> GroupSampling:
    lists = {name: tuple(fields[name]) for name in ("tasks", "sizes")}
    return GroupSampling(**{**fields, **lists})


def _groups_from_json(fields: Json) -> dict[str, tuple[str, ...]]:
    """Restores the order of the sampling: JSON keys are sorted, which puts 2x100 before 2x11."""
    groups = {name: tuple(tasks) for name, tasks in fields.items()}
    order = sorted(groups, key=lambda name: (len(groups[name]), len(name), name))
    return {name: groups[name] for name in order}
