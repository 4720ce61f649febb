"""Prints the tables that several verbs show: results, experts and holes."""

import math
from collections.abc import Sequence

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator.progress.say import print_table, say
from orchestrator.record.holes import Hole
from orchestrator.report.sections import MAX_HOLES
from orchestrator.report.wording import MISSING, percent
from orchestrator.results.means import Row, SettingMean, Spread
from orchestrator.results.schema import MACRO, SKIPPED

MAX_HOLES_SHOWN = 10
JOINT_WORDS = {"joint_accuracy": "joint", "joint_calibrated_accuracy": "calibr."}
_JOINT_LEGEND = (
    "joint: mean over tasks where the largest logit of all heads decides; calibr.: the same with a "
    "temperature per head, fitted on labelled validation images"
)
_PAIRS_LEGEND = (
    "best minus other: macro loss in the same groups, with a 95 % interval; better: groups in "
    "which the best has the lower loss; p: corrected for all pairs (Holm)"
)
MAX_MEANS_SHOWN = 200
"""Rows that the end of a run shows for each axis; a grid may have thousands of settings."""
_SHOWN = ("accuracy", "normalized_accuracy", "gain")
_FEWER = "*: over fewer than n groups, as the number does not exist in the others"
_LEGEND = (
    "data: read besides the experts' weights; n: groups; norm.: merged / expert; "
    "gain: macro minus the base with the same heads, in points"
)


def print_results(
    means: Sequence[SettingMean], *, console: Console, max_rows: int | None = None
) -> None:
    """Prints mean and standard deviation over the groups, by axis, setting and method.

    Args:
        means: The means.
        console: Where to print.
        max_rows: The most rows for each axis, whose others are counted; None for all rows.
    """
    if not means:
        say(console, "no merge has a result yet")
        return
    for axis in dict.fromkeys(mean.axis for mean in means):
        say(console, f"axis {axis}: accuracy in %, mean ± standard deviation over the groups")
        of_axis = [mean for mean in means if mean.axis == axis]
        shown = of_axis[:max_rows]
        print_table(console, _axis_table(axis, shown))
        if len(of_axis) > len(shown):
            num_more = len(of_axis) - len(shown)
            say(console, f"and {num_more:,} more; `mergesweep results` prints all of them")
    console.print(_LEGEND)
    if any(_is_part(getattr(each.macro, name)) for each in means for name in _SHOWN):
        say(console, _FEWER)
    if means[0].macro.joint_accuracy is not None:
        console.print(_JOINT_LEGEND)


def _is_part(spread: Spread) -> bool:
    """Returns whether a number exists in some of its groups only."""
    return bool(spread.num_groups and spread.num_not_finite)


def _axis_table(axis: str, means: Sequence[SettingMean]) -> Table:
    """Returns the table of one axis, at most 80 columns wide."""
    table = _table()
    table.add_column(axis, overflow="fold")
    table.add_column("method", overflow="fold")
    used = [mean.use for mean in means]
    longest_word = max(len(word) for text in used for word in text.split())
    table.add_column("data", overflow="fold", min_width=longest_word)
    joint = [each for each in JOINT_WORDS if getattr(means[0].macro, each) is not None]
    for name in ("n", "macro", "union", "norm.", "gain", *(JOINT_WORDS[each] for each in joint)):
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
            *(_percent(getattr(mean.macro, each)) for each in joint),
        )
        last = mean.value
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)


def _percent(spread: Spread, *, signed: bool = False) -> str:
    if math.isnan(spread.mean):
        return MISSING
    text = f"{spread.mean * 100:+z.1f}" if signed else f"{spread.mean * 100:z.1f}"
    if spread.num_groups > 1:
        text += f"±{spread.std * 100:.1f}"
    return f"{text}*" if spread.num_not_finite else text


def print_experts(experts: pa.Table, *, console: Console) -> None:
    """Prints the experts on their own tasks, beside chance and the base with the same head."""
    if not experts.num_rows:
        say(console, "no expert is committed yet")
        return
    table = _table()
    table.add_column("setting", overflow="fold")
    table.add_column("task", overflow="fold")
    for name in ("expert", "base", "chance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("outcome")
    has_skipped = SKIPPED.name in experts.column_names
    if has_skipped:
        table.add_column("skipped", justify="right", no_wrap=True)
    for row in experts.to_pylist():
        table.add_row(
            row["setting"],
            row["task"],
            percent(row["accuracy"]),
            percent(row["base_accuracy"]),
            percent(1 / row["num_classes"]),
            row["outcome"],
            *([_num_skipped(row)] if has_skipped else []),
        )
    say(console, "experts: accuracy in % on their own task; base: the base with the same head")
    print_table(console, table)


def print_pairs(pairs: pa.Table, *, console: Console) -> None:
    """Prints the paired comparisons of macro losses, a family after the other."""
    rows = [row for row in pairs.to_pylist() if (row["mean"], row["quantity"]) == (MACRO, "loss")]
    if not rows:
        say(
            console,
            "nothing to compare yet: no two settings or methods have finite losses in one group",
        )
        return
    table = _table()
    for name in ("compared", "best", "other"):
        table.add_column(name, overflow="fold")
    for name in ("loss", "95 %", "better", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for row in rows:
        family = f"{row['family']}, {row['axis']}" if row["axis"] else row["family"]
        if last not in (None, family):
            table.add_section()
        table.add_row(
            family if family != last else "",
            row["best"] if family != last else "",
            row["other"],
            f"{row['difference']:+z.3f}",
            MISSING if row["low"] is None else f"{row['low']:+z.3f} {row['high']:+z.3f}",
            f"{row['num_better']}/{row['num_groups']}",
            MISSING if row["p_holm"] is None else f"{row['p_holm']:.3f}",
        )
        last = family
    say(console, _PAIRS_LEGEND)
    print_table(console, table)


def print_candidates(candidates: pa.Table, *, lines: Sequence[str], console: Console) -> None:
    """Prints the candidates of a search at every rung, and lines on the search."""
    if candidates.num_rows:
        table = _table()
        left = {"candidate", "method", "outcome"}
        shown = [name for name in candidates.column_names if name not in {"batch", "rung"}]
        for name in shown:
            table.add_column(name, justify="left" if name in left else "right", overflow="fold")
        for row in candidates.to_pylist():
            table.add_row(*(_short(row[name]) for name in shown))
        print_table(console, table)
    for line in lines:
        say(console, line)


def _short(value: object) -> str:
    if value is None:
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_skipped(experts: pa.Table, *, console: Console) -> None:
    """Prints the number of images that cannot be used of each task that lacks some."""
    if SKIPPED.name in experts.column_names:
        numbers = {row["task"]: row[SKIPPED.name] for row in experts.to_pylist()}
        named = [f"{task} {num:,}" for task, num in numbers.items() if num]
        if named:
            say(console, f"images skipped, as they cannot be used: {', '.join(named)}")


def _num_skipped(row: Row) -> str:
    num = row[SKIPPED.name]
    return MISSING if num is None else f"{num:,}"


def print_holes(holes: Sequence[Hole], *, console: Console) -> None:
    """Prints the first holes with their reasons, and the number of the others."""
    for hole in holes[:MAX_HOLES_SHOWN]:
        reason = " ".join(hole.reason.split())
        say(console, f"{hole.outcome}: {hole.what}{': ' if reason else ''}{reason}")
    if len(holes) > MAX_HOLES_SHOWN:
        listed = "all of them" if len(holes) <= MAX_HOLES else f"the first {MAX_HOLES:,}"
        say(
            console,
            f"and {len(holes) - MAX_HOLES_SHOWN:,} more; `mergesweep report` lists {listed}",
        )
