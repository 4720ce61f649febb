"""`mergesweep measure`: measure what the theory needs to know of a study's base and experts."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from eval.counts import counted
from orchestrator.bounds.findings import constants_lines, operator_lines, reach_lines
from orchestrator.bounds.statements import bounds_by_row, first_of, statement_lines
from orchestrator.cli.exit_codes import DONE, FAILED
from orchestrator.cli.held_session import EndedEarlyError, held_session
from orchestrator.costs.measuring import work_of
from orchestrator.plan.measurements import constants_of, operators_of, reaches_of, seed_operators_of
from orchestrator.plan.plan import Plan
from orchestrator.progress.say import say
from orchestrator.record.committed import Committed
from orchestrator.record.measurements import missing, read_measurements
from orchestrator.record.task_constants import read_task_constants
from orchestrator.run.growth import with_any_candidate
from orchestrator.run.opened import OpenedStudy
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.artifacts.node_cache import cache_root
from workers.specs.measures import (
    EARLIER_CURVATURE,
    ConstantsSpec,
    CurvatureSpec,
    Measurement,
    OperatorSpec,
    ReachSpec,
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The measurements of a study whose inputs are committed, with weights."""

    constants: tuple[ConstantsSpec, ...]
    reaches: tuple[ReachSpec, ...]
    operators: tuple[OperatorSpec, ...]

    @property
    def specs(self) -> tuple[Measurement, ...]:
        """All of them."""
        return (*self.constants, *self.reaches, *self.operators)


def measure_study(
    opened: OpenedStudy, *, curvature: bool, leave_one_out: bool, console: Console, take_over: bool
) -> int:
    """Makes the measurements that the store lacks, and prints all; returns the exit code.

    A measurement that failed is named with its reason; the others are printed.

    Args:
        opened: A study of any age.
        curvature: Whether to measure curvature, which takes about as long as a short training.
        leave_one_out: Whether to merge again without each expert.
        console: Where to print.
        take_over: Take the study without checking whether another driver is alive.
    """
    committed = opened.ledger.committed()
    wanted = wanted_of(committed, curvature=curvature, leave_one_out=leave_one_out)
    wanted = with_earlier(wanted, artifacts=opened.artifacts)
    for line in left_out_lines(committed):
        say(console, line)
    if not wanted.specs:
        lack = "no expert is committed with weights"
        if opened.plan.study.search is not None:
            lack = "the base or the images are not prepared; make them with `mergesweep prepare`"
        say(console, f"nothing can be measured: {lack}")
        return DONE
    found = read_measurements(opened.artifacts, wanted.specs)
    left = missing(wanted.specs, found=found)
    failed: Mapping[str, str] = {}
    if left:
        cost = cost_text(left, plan=opened.plan)
        say(console, f"{len(left)} of {len(wanted.specs)} measurements are missing: {cost}")
        try:
            with held_session(
                opened,
                console=console,
                take_over=take_over,
                publishes=False,
                next_step="run the same command again to go on",
            ) as held:
                failed = held.session().measure(left, console=console)
                held.lease.check()
                held.end_if_stopped()
        except EndedEarlyError as end:
            return end.exit_code
        found = read_measurements(opened.artifacts, wanted.specs)
    for line in finding_lines(opened, wanted=wanted, found=found):
        say(console, line)
    for reason in failed.values():
        say(console, f"failed: {reason}")
    return FAILED if failed else DONE


def with_earlier(wanted: Wanted, *, artifacts: Artifacts) -> Wanted:
    """Returns the measurements, with curvatures that earlier releases made in place of new ones."""
    earlier = {
        spec: replace(spec, curvature=EARLIER_CURVATURE)
        for spec in wanted.constants
        if spec.curvature is not None
    }
    found = read_measurements(artifacts, (*earlier, *earlier.values()))
    constants = (
        each if (each := earlier.get(spec, spec)).id in found and spec.id not in found else spec
        for spec in wanted.constants
    )
    return replace(wanted, constants=tuple(constants))


def left_out_lines(committed: Committed) -> Iterator[str]:
    """Yields why some experts are not measured; nothing for a study whose experts all are."""
    experts = committed.plan.experts
    linearised = [each for each in experts.values() if each.hyperparameters.linearised]
    if linearised:
        yield (
            f"{len(linearised)} of {len(experts)} experts are linearised: no constants and no path "
            "reach, as their loss is that of another model; task vectors are measured"
        )
    adapted = [each for each in experts.values() if each.hyperparameters.trains_adapters]
    if adapted:
        yield (
            f"{len(adapted)} of {len(experts)} experts are LoRA adapters: no constants, as their "
            "steps do not follow the gradient of the weights; paths and task vectors are measured"
        )
    diverged = [
        f"{experts[each].task} at {committed.plan.settings_of[each][0].name}"
        for each, manifest in committed.experts.items()
        if not manifest.files
    ]
    if diverged:
        verb = "has" if len(diverged) == 1 else "have"
        num = counted(len(diverged), "diverged expert")
        yield f"{num} {verb} no weights to measure: {', '.join(diverged)}"


def wanted_of(committed: Committed, *, curvature: bool, leave_one_out: bool) -> Wanted:
    """Returns the measurements that can be made now: their experts are committed with weights."""
    plan = committed.plan
    usable = {each for each, manifest in committed.experts.items() if manifest.files}
    how = CurvatureSpec() if curvature else None
    operators = (*operators_of(plan, leave_one_out=leave_one_out), *seed_operators_of(plan))
    return Wanted(
        constants=_wanted_constants(committed, how=how, usable=usable),
        reaches=tuple(spec for spec in reaches_of(plan) if usable.issuperset(spec.experts)),
        operators=tuple(
            spec
            for spec in operators
            if usable.issuperset(expert.id for expert in spec.merge.experts)
        ),
    )


def _wanted_constants(
    committed: Committed, *, how: CurvatureSpec | None, usable: Collection[str]
) -> tuple[ConstantsSpec, ...]:
    """Returns the constants of tasks with a usable expert; of a search, of all prepared tasks.

    A search needs them before any expert is trained, to draw its candidates by.
    """
    plan = committed.plan
    if plan.study.search is None:
        trained = {plan.experts[each].task for each in usable}
        found = constants_of(plan, curvature=how)
        return tuple(spec for spec in found if spec.sample.task in trained)
    found = constants_of(plan if plan.experts else with_any_candidate(plan), curvature=how)
    return tuple(spec for spec in found if committed.prepared.keys() >= set(spec.sample.inputs))


def finding_lines(
    opened: OpenedStudy, *, wanted: Wanted, found: Mapping[str, Manifest]
) -> Iterator[str]:
    """Yields what the committed measurements show, under a heading each."""
    by_base: dict[tuple[str, str], dict[str, Manifest]] = {}
    for spec in wanted.constants:
        if spec.id in found:
            key = (spec.sample.base_id, spec.sample.augment)
            by_base.setdefault(key, {})[spec.sample.task] = found[spec.id]
    for (base_id, augment), manifests in by_base.items():
        yield f"\nAt base {base_id}, augmentation {augment} (mean ± standard error)"
        measured = read_task_constants(opened.artifacts, manifests, cache_root=cache_root())
        yield from (f"- {line}" for line in constants_lines(measured))
        yield from _listed(
            "What the theory states about the merges, means over groups (losses in nats)",
            statement_lines(
                bounds_by_row(
                    opened.plan,
                    measured=measured,
                    base_id=base_id,
                    augment=augment,
                    diverged=opened.ledger.committed().diverged,
                )
            ),
        )
    yield from _listed(
        "Did training stay where a second-order expansion holds?",
        reach_lines(_by_setting(wanted.reaches, plan=opened.plan), found=found),
    )
    yield from _listed(
        "Corollary 1: what methods do to the spread of task vectors",
        operator_lines(
            wanted.operators,
            found=found,
            labels={each: cell.label for each, cell in opened.plan.first_cells.items()},
        ),
    )


def _by_setting(reaches: Sequence[ReachSpec], *, plan: Plan) -> dict[str, list[ReachSpec]]:
    """Returns the paths of each setting; settings with the same experts have one entry."""
    settings: dict[str, list[ReachSpec]] = {}
    for spec in reaches:
        for setting in plan.settings_of[spec.experts[0]]:
            settings.setdefault(setting.name, []).append(spec)
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, specs in settings.items():
        alike.setdefault(tuple(spec.id for spec in specs), []).append(name)
    return {first_of(names): settings[names[0]] for names in alike.values()}


def _listed(heading: str, lines: Iterator[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield f"\n{heading}"
        yield from (f"- {line}" for line in found)


def cost_text(left: Sequence[Measurement], *, plan: Plan) -> str:
    """Returns what the missing measurements compute, also as a share of the study's training."""
    work = work_of(left)
    trained = sum(
        trial.num_steps * trial.longest.hyperparameters.batch_size for trial in plan.trials
    )
    num_operators = sum(isinstance(spec, OperatorSpec) for spec in left)
    num_reaches = sum(isinstance(spec, ReachSpec) for spec in left)
    share = (
        f"; about {100 * work.num_images / trained:.0f} % of the work of the study's training"
        if trained
        else ""
    )
    return (
        f"{counted(work.num_gradients, 'image')} to differentiate, "
        f"{counted(num_reaches, 'path')} to follow, "
        f"{counted(num_operators, 'method')} on groups to compare{share}"
    )
