from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.progress.panel import (
    MAX_FAILURES_SHOWN,
    MAX_TRIALS_SHOWN,
    duration,
    progress_panel,
    progress_text,
)
from orchestrator.progress.state import InUse, Progress, RunningTrial, Tally

IMAGES = Tally(name="images", num_done=0, num_planned=2)
RUN = (
    IMAGES,
    Tally(name="experts", num_done=2, num_planned=6),
    Tally(name="merges", num_done=0, num_planned=3),
)
PROGRESS = Progress(
    elapsed_s=0,
    stage="preparing the base and the images",
    stages=RUN,
    axes=(),
    trials=(),
    num_trials=0,
    images=("mnist_5k 250 of 1,000 images, 50 a second", "mnist_m 0 of 1,000 images"),
    failures=(),
    num_failures=0,
    per_minute={},
    in_use=(),
    seconds_left=90.0,
    tracking="ok",
)


def panel(progress: Progress) -> list[str]:
    printed = StringIO()
    Console(file=printed, width=120).print(progress_panel(progress))
    return [line.strip() for line in printed.getvalue().splitlines()]


def test_line_of_a_run_has_the_images_that_are_being_made() -> None:
    """They stand before the experts, which cannot begin yet."""
    assert progress_text(PROGRESS) == (
        "[00:00] preparing the base and the images, mnist_5k 250 of 1,000 images, 50 a second, "
        "mnist_m 0 of 1,000 images, experts 2/6, merges 0/3, about 2 min left"
    )


def test_studies_on_the_same_cluster_are_shown() -> None:
    """They are in the line in every stage, and first in the panel."""
    sharing = "shares the cluster with deep (priority 5): may use 3 of 8 slots"
    shared = replace(PROGRESS, sharing=sharing)
    assert progress_text(shared).endswith(f"about 2 min left, {sharing}")
    assert sharing in panel(shared)
    preparation = replace(shared, stages=(IMAGES,), images=())
    assert progress_text(preparation).endswith(f"the images, {sharing}")


def test_line_of_a_preparation_has_nothing_else() -> None:
    """`prepare` makes no experts, so the line has none."""
    preparation = replace(PROGRESS, stages=(IMAGES,), images=("mnist_m 0 of 1,000 images",))
    assert progress_text(preparation) == (
        "[00:00] preparing the base and the images, mnist_m 0 of 1,000 images"
    )


def test_line_counts_failures_and_names_trouble_with_mlflow() -> None:
    """Every line has the problems that a user has to look into."""
    line = progress_text(replace(PROGRESS, num_failures=2, tracking="unreachable: refused"))
    assert ", failed 2, " in line
    assert line.endswith(", MLflow unreachable: refused")


@pytest.mark.parametrize("stages", [RUN, (IMAGES,)])
def test_panel_has_a_line_for_each_task(stages: tuple[Tally, ...]) -> None:
    """This holds with and without the bars of a run."""
    lines = panel(replace(PROGRESS, stages=stages))
    assert "mnist_5k 250 of 1,000 images, 50 a second" in lines
    assert "mnist_m 0 of 1,000 images" in lines
    assert any(line.startswith("experts") for line in lines) == (stages is RUN)


def test_panel_has_axes_trials_and_speeds() -> None:
    """The panel shows bars, running trials, speeds and allocated resources."""
    lines = panel(
        replace(
            PROGRESS,
            axes=(Tally(name="lr", num_done=10, num_planned=40),),
            trials=(
                RunningTrial(name="a lr=1", step=5, steps=10, loss=0.25, steps_per_s=4.0),
                RunningTrial(name="b lr=1", step=0, steps=10, loss=None),
            ),
            num_trials=2,
            per_minute={"experts": 1.5, "merges": 12.0},
            in_use=(InUse(name="CPU", used=2, total=8), InUse(name="GPU", used=0.5, total=1)),
        )
    )
    assert any(line.startswith("lr ") and line.endswith("10/40") for line in lines)
    assert "a lr=1  step 5/10  loss 0.250  4.0 steps/s" in lines
    assert "b lr=1  step 0/10" in lines
    assert (
        "4.0 steps a second, 1.5 experts a minute, 12.0 merges a minute, 2 of 8 CPUs allocated, "
        "0.5 of 1 GPUs allocated" in lines
    )


def test_panel_shows_a_few_of_many() -> None:
    """It shows the first trials and the last failures, and counts the others."""
    trial = RunningTrial(name="a", step=0, steps=10, loss=None)
    failures = tuple(f"trial {number} failed: OSError: disk" for number in range(20))
    lines = panel(
        replace(PROGRESS, trials=(trial,) * 20, num_trials=70, failures=failures, num_failures=60)
    )
    assert f"and {70 - MAX_TRIALS_SHOWN} more trials" in lines
    assert "trial 19 failed: OSError: disk" in lines
    assert "trial 0 failed: OSError: disk" not in lines
    assert f"and {60 - MAX_FAILURES_SHOWN} more failures" in lines


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (60, "60 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_duration_has_the_unit_that_suits_it(seconds: float, said: str) -> None:
    """A duration has one figure and its unit."""
    assert duration(seconds) == said
