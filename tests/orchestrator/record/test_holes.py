import pytest

from orchestrator.record.holes import (
    Blocker,
    Hole,
    MissingBase,
    MissingExpert,
    MissingMerge,
    Outcome,
)

MERGE = MissingMerge(method="ties", group="4x01", setting="lr=0.001")
LOST = Blocker(kind="expert", id="e2", outcome=Outcome.NOT_RUN, task="mnist_5k")
BLOCKER = Blocker(kind="expert", id="e1", outcome=Outcome.DIVERGED, task="mnist_5k")


@pytest.mark.parametrize(
    ("artifact", "kind", "what"),
    [
        (
            MissingBase(model="resnet18", steps=50),
            "base",
            "base x1: resnet18 after 50 steps of pretraining",
        ),
        (
            MissingExpert(task="mnist_5k", lr=0.01, steps=10),
            "expert",
            "expert x1: mnist_5k at lr=0.01, steps=10",
        ),
        (MERGE, "merge", "merge x1: ties on 4x01 at lr=0.001"),
    ],
)
def test_hole_names_its_artifact(
    artifact: MissingBase | MissingExpert | MissingMerge, kind: str, what: str
) -> None:
    """The text has the kind, the id and what distinguishes the artifact for a reader."""
    hole = Hole(id="x1", artifact=artifact, outcome=Outcome.NOT_RUN)
    assert (hole.kind, hole.what) == (kind, what)


@pytest.mark.parametrize(
    ("hole", "reason"),
    [
        (
            Hole(id="x1", artifact=MERGE, outcome=Outcome.FAILED, error="OSError: gone"),
            "OSError: gone",
        ),
        (
            Hole(id="x1", artifact=MERGE, outcome=Outcome.DIVERGED, steps_taken=7),
            "not finite after 7 steps",
        ),
        (
            Hole(id="x1", artifact=MERGE, outcome=Outcome.LEFT_OUT),
            "the rest of the budget is too small for it",
        ),
        (Hole(id="x1", artifact=MERGE, outcome=Outcome.NOT_RUN), ""),
        (
            Hole(id="x1", artifact=MERGE, outcome=Outcome.NOT_RUN, blocked_by=BLOCKER),
            "blocked by diverged expert e1 of mnist_5k",
        ),
        (
            Hole(id="x1", artifact=MERGE, outcome=Outcome.NOT_RUN, blocked_by=LOST),
            "blocked by missing expert e2 of mnist_5k",
        ),
    ],
)
def test_hole_says_its_reason(hole: Hole, reason: str) -> None:
    """Each outcome has its own words; a blocked artifact names the one that blocks it."""
    assert hole.reason == reason


def test_blocking_base_has_no_task() -> None:
    """A base belongs to all tasks."""
    blocker = Blocker(kind="base", id="b1", outcome=Outcome.FAILED)
    assert str(blocker) == "failed base b1"


def test_only_a_failed_job_is_a_failure() -> None:
    """The exit code of a study with failed jobs differs from that of an incomplete one."""
    assert [outcome for outcome in Outcome if outcome.is_failure] == [Outcome.FAILED]
