"""Formats the progress of a run: as a panel for terminals, as a line for other outputs."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from eval.counts import counted
from orchestrator.progress.state import InUse, Progress, RunningTrial, Tally
from orchestrator.progress.visible_text import visible
from workers.artifacts.manifests import Manifest
from workers.prepare.progress import PreparationProgress

MAX_TRIALS_SHOWN = 8
MAX_FAILURES_SHOWN = 5
_MAX_NAME_CHARS = 20
_MB = 1e6


def progress_text(progress: Progress) -> str:
    """Returns the progress in one line."""
    parts = [f"{_clock(progress.elapsed_s)} {progress.stage}", *progress.images]
    if progress.tally("experts") is not None:
        parts += [
            f"{each.name} {each.num_done}/{each.num_planned}"
            for each in progress.stages
            if each.name in ("experts", "merges")
        ]
        if progress.num_failures:
            parts.append(f"failed {progress.num_failures}")
        parts += _left(progress)
    return ", ".join([*parts, *_fair_share(progress), *_tracking_trouble(progress)])


def progress_panel(progress: Progress) -> RenderableType:
    """Returns the progress as a few lines with bars."""
    head = [f"{_clock(progress.elapsed_s)} {progress.stage}"]
    if progress.tally("experts") is not None:
        head += _left(progress)
    lines = [
        *_fair_share(progress),
        *progress.images,
        *_trial_lines(progress),
        *_speed_lines(progress),
        *_failure_lines(progress),
        *_tracking_trouble(progress),
    ]
    text = "\n".join(f"  {line}" for line in lines)
    return Group(", ".join(head), _bars(progress.stages), _bars(progress.axes), text)


def _bars(tallies: tuple[Tally, ...]) -> RenderableType:
    names = TextColumn("  {task.description:14}", markup=False)
    bars = Bars(names, BarColumn(40), MofNCompleteColumn())
    for tally in tallies:
        name = _shown(tally.name)[:_MAX_NAME_CHARS]
        bars.add_task(visible(name), total=tally.num_planned, completed=tally.num_done)
    return bars


def _shown(tally: str) -> str:
    """Returns the words for a tally: that of the images counts data sets, one for each task."""
    return "data sets" if tally == "images" else tally


def _trial_lines(progress: Progress) -> Iterator[str]:
    for trial in progress.trials[:MAX_TRIALS_SHOWN]:
        yield "  ".join(
            [trial.name, f"step {trial.step}/{trial.steps}", *_loss(trial), *_speed(trial)]
        )
    if progress.num_trials > MAX_TRIALS_SHOWN:
        yield f"and {counted(progress.num_trials - MAX_TRIALS_SHOWN, 'more trial')}"


def _speed_lines(progress: Progress) -> Iterator[str]:
    speeds = [
        f"{speed:,.1f} {_shown(name)} a minute" for name, speed in progress.per_minute.items()
    ]
    if progress.steps_per_s:
        speeds.insert(0, f"{progress.steps_per_s:,.1f} steps a second")
    parts = [*speeds, *(_use(each) for each in progress.in_use)]
    if parts:
        yield ", ".join(parts)


def _failure_lines(progress: Progress) -> Iterator[str]:
    shown = progress.failures[-MAX_FAILURES_SHOWN:]
    yield from shown
    if progress.num_failures > len(shown):
        yield f"and {counted(progress.num_failures - len(shown), 'more failure')}"


def _use(each: InUse) -> str:
    return f"{each.used:g} of {each.total:g} {each.name}s allocated"


def _loss(trial: RunningTrial) -> list[str]:
    return [] if trial.loss is None else [f"loss {trial.loss:.3f}"]


def _speed(trial: RunningTrial) -> list[str]:
    return [] if trial.steps_per_s is None else [f"{trial.steps_per_s:,.1f} steps/s"]


def _left(progress: Progress) -> list[str]:
    """Returns the estimated time left; nothing once everything is made."""
    seconds = progress.seconds_left
    if seconds is None:
        return ["time left: not known yet"]
    return [f"about {duration(seconds)} left"] if seconds else []


def _fair_share(progress: Progress) -> list[str]:
    return [progress.sharing] if progress.sharing else []


def _tracking_trouble(progress: Progress) -> list[str]:
    return [] if progress.tracking == "ok" else [f"MLflow {progress.tracking}"]


def _clock(elapsed_s: float) -> str:
    minutes, seconds = divmod(int(elapsed_s), 60)
    return f"[{minutes:02d}:{seconds:02d}]"


def preparation_line(progress: PreparationProgress) -> str:
    """Returns how many images of a task are prepared, and how fast."""
    rate = f", {progress.images_per_s:,.0f} a second" if progress.images_per_s else ""
    return f"{progress.task} {progress.num_done:,} of {counted(progress.num_images, 'image')}{rate}"


def prepared_line(progress: PreparationProgress, *, manifest: Manifest) -> str:
    """Returns that a task's images are prepared, with their bytes and the time that it took."""
    num_bytes = sum(file.size_bytes for file in manifest.files)
    took = duration(sum(manifest.seconds.values()))
    return f"prepared {preparation_line(progress)}, {num_bytes / _MB:,.1f} MB in {took}"


def duration(seconds: float) -> str:
    """Returns a length of time with its unit, such as `12 min`."""
    if seconds < 90:  # noqa: PLR2004 a minute and a half
        return f"{max(1, round(seconds))} s"
    if seconds < 2 * 3600:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
