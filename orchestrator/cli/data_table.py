"""Prints the data of a study's tasks: images of each class, what was left out, warnings."""

from rich import box
from rich.console import Console
from rich.table import Table

from eval.counts import counted
from orchestrator.progress.say import print_table, say
from orchestrator.record.data_check import DataCheck, SplitFacts

MAX_WARNINGS_SHOWN = 10
THOUSAND = 1000


def print_data(check: DataCheck, *, console: Console) -> None:
    """Prints a row per task, a line per task with files that are left out, and the warnings."""
    print_table(console, _table(check))
    is_known = all(task.train.per_class is not None for task in check.tasks)
    unknown = "" if is_known else "; ?: known once the images are prepared"
    say(console, f"per class: the least/median/most images of a class{unknown}")
    for task in check.tasks:
        if task.left_out:
            say(console, f"left out of {task.task}: {'; '.join(task.left_out)}")
        for remark in task.remarks:
            say(console, f"{task.task}: {remark}")
    if check.has_no_pairs:
        say(console, "no image is in both splits of its task, or in training with two labels")
    for warning in check.warnings[:MAX_WARNINGS_SHOWN]:
        say(console, f"warning: {warning}")
    if len(check.warnings) > MAX_WARNINGS_SHOWN:
        more = counted(len(check.warnings) - MAX_WARNINGS_SHOWN, "more warning")
        say(console, f"and {more} on data; `plan --json` lists all of them")


def _table(check: DataCheck) -> Table:
    """Returns a table of at most 80 columns."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("task", overflow="fold")
    for name in ("classes", "train", "per class", "test", "per class"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in check.tasks:
        table.add_row(
            task.task,
            f"{task.num_classes:,}",
            _images(task.train),
            _per_class(task.train),
            _images(task.test),
            _per_class(task.test),
        )
    return table


def _images(split: SplitFacts) -> str:
    if split.num_images == split.num_available:
        return f"{split.num_images:,}"
    return f"{_short(split.num_images)} of {_short(split.num_available)}"


def _per_class(split: SplitFacts) -> str:
    if split.per_class is None:
        return "?"
    least, median, most = split.per_class
    return _short(least) if least == most else "/".join(map(_short, (least, median, most)))


def _short(num: float) -> str:
    """Returns a number in at most five characters; thousands, where they are many, as `12.5k`."""
    if num < 10 * THOUSAND:
        return f"{num:,.0f}" if num >= THOUSAND else f"{num:g}"
    return f"{num / THOUSAND:.3g}k"
