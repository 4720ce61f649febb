"""What commands print: plans, results and how a run ended."""

from collections.abc import Sequence

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator.costs.estimate import Estimate, StoreEstimate
from orchestrator.costs.usage import GIGABYTE
from orchestrator.plan.plan import Plan
from orchestrator.plan.settings import DEFAULT_AXIS
from orchestrator.progress.panel import duration
from orchestrator.progress.say import say
from orchestrator.record.holes import Hole
from orchestrator.record.ledger import Ledger
from orchestrator.results.means import CATEGORICAL_AXES, SettingMean, Spread
from orchestrator.study.resources import Budget

MAX_HOLES_SHOWN = 10


def print_plan(plan: Plan, *, ledger: Ledger, lines: Sequence[str], console: Console) -> None:
    """Prints what a study will run, what sharing saves, what exists, and what the rest costs."""
    counts = ledger.state().counts()
    for warning in plan.warnings:
        console.print(f"warning: {warning}", highlight=False)
    console.print(
        f"study {plan.study.name}: {len(plan.study.task_names)} tasks, "
        f"{len(plan.settings)} settings, {len(plan.groups)} groups, "
        f"{len(plan.study.merge)} methods",
        highlight=False,
    )
    table = Table("", "planned", "already in the store")
    missing = len(ledger.committed().missing_trials())
    if len(plan.bases.by_id) > 1:
        table.add_row("bases", str(len(plan.bases.by_id)), str(len(ledger.committed().bases)))
    table.add_row("trials", str(len(plan.trials)), str(len(plan.trials) - missing))
    table.add_row("experts", str(counts.num_experts), str(counts.num_experts_done))
    table.add_row("merge jobs", str(counts.num_merges), str(counts.num_merges_done))
    console.print(table)
    for line in (*axis_lines(plan), *base_lines(plan), sharing_line(plan), *lines):
        say(console, line)


def axis_lines(plan: Plan) -> Sequence[str]:
    """Says what each axis varies, in the values of the study file."""
    values: dict[str, list[str]] = {}
    for setting in plan.settings:
        values.setdefault(setting.axis, []).append(setting.value)
    return [
        f"axis {axis}: {', '.join(each)}"
        for axis, each in values.items()
        if axis not in (*CATEGORICAL_AXES, DEFAULT_AXIS)
    ]


def base_lines(plan: Plan) -> Sequence[str]:
    """Says what the study pretrains; nothing for most studies."""
    if not plan.bases.runs:
        return []
    num_bases = sum(len(run.snapshots) for run in plan.bases.runs)
    runs, steps = len(plan.bases.runs), plan.bases.num_steps
    return [f"pretraining: {num_bases} bases, snapshots of {runs} runs of {steps:,} steps in all"]


def sharing_line(plan: Plan) -> str:
    """Says what shared prefixes and shared points save."""
    steps, unshared = plan.num_steps, plan.num_steps_unshared
    return (
        f"sharing: {steps:,} optimizer steps instead of {unshared:,} "
        f"({1 - steps / unshared:.0%} saved), {len(plan.merges):,} merge jobs for "
        f"{len(plan.cells):,} table entries"
    )


def estimate_lines(
    estimate: Estimate, *, store: StoreEstimate, num_slots: int, budget: Budget
) -> Sequence[str]:
    """Says what is left to do, in time, money and bytes, and what that rests on."""
    wall = duration(estimate.wall_s(num_slots=num_slots))
    trials, merges = duration(estimate.train_s), duration(estimate.merge_s)
    usage = estimate.usage
    takes = [f"{usage.cpu_hours:,.2f} CPU-core-hours"]
    if usage.gpu_s:
        takes.insert(0, f"{usage.gpu_hours:,.2f} GPU-hours")
    if cost := usage.usd(budget):
        takes.append(f"{cost:,.2f} USD")
    bases, experts = _size(store.base_bytes), _size(store.expert_bytes)
    images, in_flight = _size(store.data_bytes), _size(store.checkpoint_bytes)
    return (
        f"left: about {wall} on {num_slots} workers at once: {', '.join(takes)}",
        f"of one worker's time: trials {trials}, merge jobs {merges}",
        f"times are {estimate.basis}",
        f"in the store: experts {experts}, bases {bases}, images {images}",
        f"besides, in the store while trials run: checkpoints {in_flight}",
    )


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "of unknown size (timm has no such model, or could not be asked)"
    if num_bytes < GIGABYTE / 10:
        return f"{num_bytes / 1e6:,.1f} MB"
    return f"{num_bytes / GIGABYTE:,.2f} GB"


def print_results(means: Sequence[SettingMean], *, console: Console) -> None:
    """Prints mean and standard deviation over the groups, by axis, setting and method."""
    for axis in dict.fromkeys(mean.axis for mean in means):
        console.print(_axis_table(axis, [mean for mean in means if mean.axis == axis]))


def _axis_table(axis: str, means: Sequence[SettingMean]) -> Table:
    """Lays out one axis in 80 columns."""
    table = Table(
        title=f"axis {axis}: accuracy in %, mean ± standard deviation over the groups",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column(axis, overflow="fold")
    table.add_column("method", overflow="fold")
    used = [mean.use for mean in means]
    longest_word = max(len(word) for text in used for word in text.split())
    table.add_column("data", overflow="fold", min_width=longest_word)
    for name in ("n", "macro", "union", "norm.", "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for mean, data in zip(means, used, strict=True):
        if last is not None and mean.value != last:
            table.add_section()
        table.add_row(
            mean.value if mean.value != last else "",
            mean.method,
            data,
            str(mean.num_groups),
            _percent(mean.macro.accuracy),
            _percent(mean.union.accuracy),
            _percent(mean.macro.normalized_accuracy),
            _percent(mean.macro.gain, signed=True),
        )
        last = mean.value
    table.caption = (
        "data: read besides the experts' weights; n groups; norm.: merged / expert; "
        "gain: macro minus the base under the same heads, points"
    )
    return table


def _percent(spread: Spread, *, signed: bool = False) -> str:
    mean = f"{spread.mean * 100:+.1f}" if signed else f"{spread.mean * 100:.1f}"
    return mean if spread.num_groups < 2 else f"{mean}±{spread.std * 100:.1f}"  # noqa: PLR2004


def print_experts(experts: pa.Table, *, console: Console) -> None:
    """Prints the experts on their own tasks, with chance and the base under the same head."""
    table = Table(title="experts: accuracy in % on their own task", box=box.SIMPLE, padding=(0, 1))
    table.add_column("setting", overflow="fold")
    table.add_column("task", overflow="fold")
    for name in ("expert", "base", "chance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("outcome")
    table.caption = "base: under the same head"
    for row in experts.to_pylist():
        table.add_row(
            row["setting"],
            row["task"],
            f"{row['accuracy'] * 100:.1f}",
            f"{row['base_accuracy'] * 100:.1f}",
            f"{100 / row['num_classes']:.1f}",
            row["outcome"],
        )
    console.print(table)


def print_holes(holes: Sequence[Hole], *, console: Console) -> None:
    """Prints what is missing, the first few in full."""
    for hole in holes[:MAX_HOLES_SHOWN]:
        console.print(f"{hole.outcome}: {hole.what}: {hole.reason}", highlight=False, markup=False)
    if len(holes) > MAX_HOLES_SHOWN:
        console.print(f"and {len(holes) - MAX_HOLES_SHOWN} more; the report lists all of them")
