from io import StringIO

from rich.console import Console

from orchestrator.board import Board, Display
from orchestrator.ledger import Counts
from workers.progress import PreparationProgress

COUNTS = Counts(
    num_experts=6,
    num_experts_done=2,
    num_merges=3,
    num_merges_done=0,
    num_merges_blocked=0,
    num_failed=0,
)


def preparing(**tasks: int) -> Board:
    """Returns the board of a preparation: how many of 1,000 images each task has."""
    board = Board(stage="preparing the base and the images")
    for task, num_done in tasks.items():
        board.preparations[task] = PreparationProgress(
            task=task, num_images=1000, num_done=num_done, images_per_s=50.0 if num_done else 0.0
        )
    return board


def display(board: Board, *, counts: Counts | None, console: Console | None = None) -> Display:
    return Display(
        board,
        console=console or Console(file=StringIO()),
        counts=None if counts is None else lambda: counts,
        seconds_left=lambda: 90.0,
        tracking=lambda: "ok",
    )


def test_line_of_a_run_has_the_images_that_are_being_made() -> None:
    """Before the experts, which cannot begin yet."""
    line = display(preparing(mnist_5k=250), counts=COUNTS).line()
    assert line == (
        "[00:00] preparing the base and the images, mnist_5k 250 of 1,000 images, 50 a second, "
        "experts 2/6, merges 0/3, about 2 min left"
    )


def test_line_of_a_preparation_has_nothing_else() -> None:
    """Experts are none of its business, and a task that has just begun has no speed yet."""
    line = display(preparing(mnist_5k=0, mnist_m=500), counts=None).line()
    assert line == (
        "[00:00] preparing the base and the images, mnist_5k 0 of 1,000 images, "
        "mnist_m 500 of 1,000 images, 50 a second"
    )


def test_panel_has_a_line_for_each_task() -> None:
    """On a terminal, with and without the bars of a run."""
    for counts in (COUNTS, None):
        console = Console(file=StringIO(), width=120)
        console.print(
            display(preparing(mnist_5k=250, mnist_m=500), counts=counts, console=console)._panel()
        )
        assert isinstance(console.file, StringIO)
        lines = [line.strip() for line in console.file.getvalue().splitlines()]
        assert "mnist_5k 250 of 1,000 images, 50 a second" in lines
        assert "mnist_m 500 of 1,000 images, 50 a second" in lines
        assert any(line.startswith("experts") for line in lines) == (counts is not None)
