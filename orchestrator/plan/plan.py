"""Builds a study's plan: everything that the study consists of, before anything runs."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from eval.counts import counted
from eval.digests import sha256_of_bytes
from eval.task_source import TaskSource
from orchestrator.plan.bases import Bases, plan_bases
from orchestrator.plan.candidates import Decision, base_points, planned_trials, study_settings
from orchestrator.plan.cells import Cell, share_choices
from orchestrator.plan.families import families
from orchestrator.plan.groups import Group, num_possible, sample_groups
from orchestrator.plan.multi_task import MultiTaskCell, multi_task_cells
from orchestrator.plan.pools import pool_of
from orchestrator.plan.settings import NUM_TASKS_AXIS, Setting
from orchestrator.plan.specs import data_spec, expert_spec, head_job, merge_fields, merge_spec
from orchestrator.study.method_labels import labelled_methods
from orchestrator.study.schema import Merge, Study
from orchestrator.study.task_sources import task_sources
from workers.specs.data import DataJob, DataSpec, EvaluateOn
from workers.specs.expert import ExpertSpec
from workers.specs.head import HeadJob
from workers.specs.merge import MergeSpec
from workers.specs.own_method import OwnMethodSpec
from workers.specs.plan_file import GroupSampling
from workers.specs.training import Pretraining, Training, TrialSpec


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a study consists of; equal specifications appear once."""

    study: Study
    sources: Mapping[str, TaskSource]
    """The tasks with their files, by name, in the order of `datasets`."""
    bases: Bases
    datasets: tuple[DataSpec, ...]
    """The images of the study's tasks, then of further tasks of the pretraining."""
    heads: Mapping[str, HeadJob]
    """The zero-shot heads by task; empty if the study has none."""
    settings: tuple[Setting, ...]
    groups: tuple[Group, ...]
    trials: tuple[TrialSpec, ...]
    """In the order of the settings, so that the first groups are complete early."""
    setting_experts: tuple[Mapping[str, ExpertSpec], ...]
    """The expert of every task, for each of `settings`."""
    cells: tuple[Cell, ...]
    """In the order in which their merges run."""
    multi_task: tuple[MultiTaskCell, ...]
    """The multi-task models beside the merges; empty if the study has none."""
    choosing_merges: Mapping[str, tuple[str, ...]]
    """The ids of the merges whose scores choose together, by `TuningSpec.over`."""
    warnings: tuple[str, ...]
    decisions: tuple[Decision, ...] = ()
    """The decisions of a search so far; `settings` and `cells` are then the winner's alone."""
    candidate_settings: tuple[Setting, ...] = ()
    """The candidates of a search at the steps that they are merged at."""
    candidate_experts: tuple[Mapping[str, ExpertSpec], ...] = ()
    """The expert of every task, for each of `candidate_settings`."""
    candidate_cells: tuple[Cell, ...] = ()
    """The merges of candidates, which are evaluated on validation images; no table has them."""

    @property
    def prepared_ids(self) -> dict[str, set[str]]:
        """The ids of the artifacts that experts are made from, by kind."""
        return {
            "base": set(self.bases.by_id),
            "data": {data.id for data in self.datasets},
            "head": {job.spec.id for job in self.heads.values()},
        }

    @property
    def own_methods(self) -> dict[str, OwnMethodSpec]:
        """The methods that users wrote, by name."""
        found = (merge.own_method for merge in self.study.merge)
        return {each.name: each for each in found if each is not None}

    @property
    def trainings(self) -> tuple[Training, ...]:
        """All trainings: pretraining, then trials, then multi-task models."""
        return (*self.bases.trainings, *self.trials, *self.bases.multi_task)

    @cached_property
    def experts(self) -> dict[str, ExpertSpec]:
        """All experts by id."""
        return {expert.id: expert for trial in self.trials for expert in trial.outputs}

    @cached_property
    def merges(self) -> dict[str, MergeSpec]:
        """All merge jobs by id, in the order in which they run."""
        return {cell.merge.id: cell.merge for cell in self.all_cells}

    @cached_property
    def first_cells(self) -> dict[str, Cell]:
        """The first cell of each merge, by the merge's id."""
        return {cell.merge.id: cell for cell in reversed(self.all_cells)}

    @property
    def all_cells(self) -> tuple[Cell, ...]:
        """The cells of the result table, then those of the candidates of a search."""
        return (*self.cells, *self.candidate_cells)

    @property
    def all_settings(self) -> tuple[Setting, ...]:
        """The settings of the result table, then those of the candidates of a search."""
        return (*self.settings, *self.candidate_settings)

    @cached_property
    def settings_of(self) -> dict[str, list[Setting]]:
        """The settings that use each expert, by the expert's id."""
        settings: dict[str, list[Setting]] = {}
        all_experts = (*self.setting_experts, *self.candidate_experts)
        for setting, experts in zip(self.all_settings, all_experts, strict=True):
            for spec in experts.values():
                settings.setdefault(spec.id, []).append(setting)
        return settings

    @property
    def data_jobs(self) -> tuple[DataJob, ...]:
        """The job that makes each of `datasets`, in their order."""
        return tuple(DataJob(spec=each, source=self.sources[each.task]) for each in self.datasets)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all trials."""
        return sum(trial.num_steps for trial in self.trials)

    @property
    def num_steps_unshared(self) -> int:
        """Optimizer steps of all trials if no experts or prefixes were shared."""
        settings = [
            each for each in self.all_settings if each.axis != NUM_TASKS_AXIS and each.pool is None
        ]
        return sum(
            point.steps
            for setting in settings or self.settings[:1]
            for point in setting.points.values()
        )


def build_plan(
    study: Study,
    *,
    groups: Sequence[Group] | None = None,
    recorded: Mapping[str, TaskSource] | None = None,
    resized: Collection[str] = (),
    decisions: Sequence[Decision] = (),
) -> Plan:
    """Returns a study's plan; it also depends on its checkpoint files and its own tasks' files.

    Args:
        study: A checked study.
        groups: The groups that an earlier run recorded; None to sample them.
        recorded: The study's own tasks as an earlier plan recorded them; None to read their files.
        resized: The models that take the study's images only if they are built for their size.
        decisions: The decisions of the study's search so far; none without a search.

    Raises:
        OwnTaskError: The files of an own task no longer make a task.
        StudyError: A pool is larger than the experts of a group.
    """
    sources = task_sources(study, recorded=recorded or {})
    datasets = tuple(data_spec(study, task=source.task) for source in sources.values())
    settings, candidates = study_settings(study, decisions=decisions)
    if groups is None:
        by = group_sampling(study)
        groups = sample_groups(by.tasks, sizes=by.sizes, count=by.count, seed=by.seed)
    data_ids = {data.task: data.id for data in datasets}
    points = base_points(study, settings=(*settings, *candidates))
    bases = plan_bases(study, points=points, data_ids=data_ids, resized=resized)
    heads = _heads(study, sources=sources)
    make = partial(_experts, study, bases=bases, data_ids=data_ids, heads=heads)
    experts, tried = make(settings=settings), make(settings=candidates)
    methods = labelled_methods(study.merge)
    cells = partial(_cells, study, methods=methods, groups=groups)
    shared, choosing_merges = share_choices(methods, cells(settings=settings, experts=experts))
    every_expert = [expert for by_task in (*experts, *tried) for expert in by_task.values()]
    multi_task = tuple(
        multi_task_cells(study, settings=settings, groups=groups, bases=bases, experts=experts)
    )
    trainings = Pretraining.sharing_prefixes(cell.model for cell in multi_task)
    return Plan(
        study=study,
        sources=sources,
        bases=replace(bases, multi_task=trainings),
        datasets=datasets,
        heads=heads,
        settings=settings,
        groups=tuple(groups),
        trials=planned_trials(study, every_expert, decisions=decisions, tried=tried),
        setting_experts=tuple(experts),
        cells=shared,
        multi_task=multi_task,
        choosing_merges=choosing_merges,
        warnings=_warnings(study, settings=(*settings, *candidates)),
        decisions=tuple(decisions),
        candidate_settings=candidates,
        candidate_experts=tuple(tried),
        candidate_cells=tuple(cells(settings=candidates, experts=tried, evaluate_on="validation")),
    )


def _experts(
    study: Study,
    *,
    settings: Sequence[Setting],
    bases: Bases,
    data_ids: Mapping[str, str],
    heads: Mapping[str, HeadJob],
) -> list[dict[str, ExpertSpec]]:
    """Returns the expert of every task, for each setting."""
    head_ids = {task: job.spec.id for task, job in heads.items()}
    return [
        {
            task: expert_spec(
                study,
                task=task,
                point=point,
                base=bases.by_point[setting.base],
                data_ids=data_ids,
                head_id=head_ids.get(task),
            )
            for task, point in setting.points.items()
        }
        for setting in settings
    ]


def _heads(study: Study, *, sources: Mapping[str, TaskSource]) -> dict[str, HeadJob]:
    zero_shot = study.finetune.zero_shot
    if zero_shot is None:
        return {}
    return {name: head_job(zero_shot, task=sources[name].task) for name in study.task_names}


def group_sampling(study: Study) -> GroupSampling:
    """Returns everything that determines a study's groups."""
    return GroupSampling(
        tasks=tuple(sorted(study.task_names)),
        sizes=tuple(group_sizes(study)),
        count=study.groups.count,
        seed=study.seed if study.groups.seed is None else study.groups.seed,
    )


def group_sizes(study: Study) -> list[int]:
    """Returns the sizes of the study's groups, ascending.

    `groups.size` is among them unless the number-of-tasks axis is the study's only axis.
    """
    sizes = set(study.groups.sizes)
    if study.groups.pool or study.finetune.varied() or study.backbone.axes.varied() or not sizes:
        sizes.add(study.groups.size)
    return sorted(sizes)


def _cells(
    study: Study,
    *,
    methods: Sequence[tuple[str, Merge]],
    settings: Sequence[Setting],
    experts: Sequence[Mapping[str, ExpertSpec]],
    groups: Sequence[Group],
    evaluate_on: EvaluateOn = "test",
) -> Iterable[Cell]:
    fields = [
        (label, merge_fields(study, method=method), method.step_rule) for label, method in methods
    ]
    choosing = families(settings, experts=experts) if any(rule for *_, rule in fields) else None
    has_held_out = study.evaluation.held_out and evaluate_on == "test"
    by_experts: dict[tuple[str, ...], dict[tuple[object, ...], MergeSpec]] = {}
    for place, (setting, by_task) in enumerate(zip(settings, experts, strict=True)):
        family = None if choosing is None else choosing[place]
        size = setting.size or study.groups.size
        ids = tuple(by_task[task].id for task in sorted(by_task))
        specs = by_experts.setdefault(ids, {})  # settings with the same experts share merges
        for group in (group for group in groups if group.size == size):
            pool = pool_of(setting, group=group, experts=by_task, every=experts, seed=study.seed)
            for label, of_method, rule in fields:
                if rule is not None and family is None:
                    continue  # no other number of steps at this setting
                key = (label, group.name, pool)
                if key not in specs:
                    specs[key] = merge_spec(
                        of_method,
                        group=group,
                        experts=by_task,
                        pool=pool,
                        has_held_out=has_held_out,
                        evaluate_on=evaluate_on,
                        snapshots=family.snapshots(group, rule=rule) if family and rule else None,
                    )
                yield Cell(setting=setting, label=label, group=group, merge=specs[key])


def _warnings(study: Study, *, settings: Iterable[Setting]) -> tuple[str, ...]:
    return (*_group_warnings(study), *_warmup_warnings(settings), *_joint_warnings(study))


def _joint_warnings(study: Study) -> Iterator[str]:
    fields = [merge_fields(study, method=each) for each in study.merge]
    if study.evaluation.joint != "none" and all(each["joint"] == "none" for each in fields):
        yield (
            f"evaluation.joint is {study.evaluation.joint}, but every entry of merge keeps modules "
            "per task, which need to know the task: no merge has a joint score"
        )


def _group_warnings(study: Study) -> Iterator[str]:
    num_tasks = len(study.task_names)
    for size in group_sizes(study):
        if num_possible(num_tasks, size=size) < study.groups.count:
            distinct = counted(num_possible(num_tasks, size=size), "distinct group")
            yield (
                f"groups.count is {study.groups.count}, but {counted(num_tasks, 'task')} have only "
                f"{distinct} of {size}; all of them are used"
            )


def _warmup_warnings(settings: Iterable[Setting]) -> Iterator[str]:
    points = {
        (point.warmup_steps, point.steps)
        for setting in settings
        for point in setting.points.values()
    }
    for warmup_steps, steps in sorted(points):
        if warmup_steps > steps:
            yield (
                f"finetune.warmup_steps is {warmup_steps:,}, so that the learning rate of experts "
                f"with {steps:,} steps ends at {steps / warmup_steps:.0%} of its peak"
            )


def plan_digest(plan: Plan) -> str:
    """Returns a digest of the ids of all experts, merges and bases."""
    ids = [*plan.experts, *plan.merges, *plan.bases.by_id]
    return sha256_of_bytes("\n".join(ids).encode())[:16]
