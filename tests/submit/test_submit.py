"""Takes studies on a cluster from submission to results, through the command line only."""

import os
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from workers.store.opening import open_store

pytestmark = [pytest.mark.cluster, pytest.mark.s3, pytest.mark.slow]

STUDY = """
name: {name}
backbone: {{model: test_efficientnet, weights: none, image_size: 32}}
tasks: {{names: [{tasks}], max_train: 64, max_test: 32{root}}}
finetune: {{defaults: {{steps: {steps}, batch_size: 8, lr: 0.001}}}}
groups: {{size: 2}}
merge: [{{method: average}}]
checkpoint_every_s: 1
store: "{store}"
"""
TASKS = ("mnist_5k", "font_letters", "emoji_objects")
WAIT_S = 300


@pytest.fixture
def write(program: Any, s3_url: str) -> Callable[..., str]:  # noqa: ANN401 as in conftest
    """Returns a function that writes a study file into the program's directory."""

    def make(
        name: str,
        *,
        tasks: Sequence[str] = TASKS,
        steps: int = 4,
        root: str = "",
        store: str = s3_url,
    ) -> str:
        path = program.folder / f"{name}.yaml"
        text = STUDY.format(name=name, tasks=", ".join(tasks), steps=steps, root=root, store=store)
        path.write_text(text)
        return str(path)

    return make


@pytest.fixture
def reading(s3_environment: object) -> dict[str, str]:
    """Returns environment variables with which a command can read the store."""
    del s3_environment  # the fixture sets the variables
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def jobs(head: Any) -> str:  # noqa: ANN401 as in conftest
    """Returns the answer of the Jobs API about all jobs."""
    request = urllib.request.Request(
        f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def test_study_is_submitted_watched_and_done_and_leaves_no_secret(
    head: Any,  # noqa: ANN401 as in conftest
    program: Any,  # noqa: ANN401 as in conftest
    write: Callable[..., str],
    reading: dict[str, str],
    s3_url: str,
) -> None:
    """A study can be submitted, watched and resubmitted, and leaves no secret behind.

    A second submission during the run submits nothing. A third, after the end, finds nothing left
    to run.
    """
    study = write("first")
    password = "of-mlflow-0123456789"
    said = program.run("submit", study, MLFLOW_TRACKING_PASSWORD=password, **reading)
    assert f"submitted first-1 to {head.address}" in said
    assert "checked: 1 node can run the study and write to s3://" in said
    again = program.run("submit", study)
    assert "first-1 is RUNNING" in again
    assert "nothing submitted" in again
    watched = program.run("watch", "first", **reading)
    assert "experts 3 of 3, merge jobs 3 of 3" in watched
    assert "finished" in watched
    assert "first: [" in watched  # a progress line printed during the run
    assert "accuracy in %" in program.run("logs", "first")
    assert "experts 3 of 3" in program.run("status", "first", **reading)
    assert "has ended already: SUCCEEDED" in program.run("stop", "first")
    waited = program.run("submit", study, "--wait")
    assert "submitted first-2" in waited
    assert "accuracy in %" in waited
    assert not any(stage in waited for stage in ("preparing", "fine-tuning", "merging"))
    keys = [reading["AWS_ACCESS_KEY_ID"], reading["AWS_SECRET_ACCESS_KEY"]]
    assert_no_secrets(head, secrets=[head.token, password, *keys], store_url=s3_url)


def test_stopped_study_keeps_the_checkpoints_of_its_trials(
    program: Any,  # noqa: ANN401 as in conftest
    write: Callable[..., str],
    reading: dict[str, str],
    s3_url: str,
) -> None:
    """`stop` lets running trials write checkpoints before it ends them."""
    submit_and_stop("halted", program, write, steps=20_000, reading=reading, s3_url=s3_url)
    assert any(open_store(s3_url).list("in-flight/"))


@pytest.mark.large
def test_stopped_study_goes_on_from_its_checkpoints(
    program: Any,  # noqa: ANN401 as in conftest
    write: Callable[..., str],
    reading: dict[str, str],
    s3_url: str,
) -> None:
    """A new submission finishes a study that was stopped."""
    study = submit_and_stop("resumed", program, write, steps=2000, reading=reading, s3_url=s3_url)
    resumed = program.run("submit", study, "--wait")
    assert "submitted resumed-2" in resumed
    assert "experts 2 of 2" in program.run("status", "resumed", **reading)


def submit_and_stop(
    name: str,
    program: Any,  # noqa: ANN401 as in conftest
    write: Callable[..., str],
    *,
    steps: int,
    reading: dict[str, str],
    s3_url: str,
) -> str:
    """Submits a study, stops it while it has checkpoints, and returns its file.

    The trials must take longer than `stop`.
    """
    study = write(name, tasks=TASKS[:2], steps=steps)
    program.run("submit", study)
    store = open_store(s3_url)
    wait_until(lambda: any(store.list(f"studies/{name}/progress-")), poll_s=0.5)
    assert "at work: [" in program.run("status", name, exit_code=3, **reading)
    wait_until(lambda: any(store.list("in-flight/")), poll_s=0.5)
    stopped = program.run("stop", name)
    assert f"{name}-1 is STOPPED" in stopped
    assert "stopped; everything that was committed is kept" in program.run("logs", name)
    assert f"{name}-1 has ended: STOPPED" in program.run("status", name, exit_code=3, **reading)
    return study


def test_token_is_asked_for(
    program: Any,  # noqa: ANN401 as in conftest
    write: Callable[..., str],
) -> None:
    """Without a token, or with a wrong one, `submit` prints one line and exits with 2."""
    study = write("refused")
    lacking = program.run("submit", study, exit_code=2, RAY_AUTH_TOKEN="")
    assert "requires a token (401): set RAY_AUTH_TOKEN" in lacking
    wrong = program.run("submit", study, exit_code=2, RAY_AUTH_TOKEN="f" * 64)
    assert "does not accept the token in RAY_AUTH_TOKEN (403)" in wrong
    assert len(lacking.splitlines()) == len(wrong.splitlines()) == 1


@pytest.mark.large
def test_what_one_node_lacks_is_told_before_anything_is_scheduled(
    head: Any,  # noqa: ANN401 as in conftest
    program: Any,  # noqa: ANN401 as in conftest
    write: Callable[..., str],
    s3_url: str,
) -> None:
    """One line names the node whose key the store refuses and the task root that no node has."""
    node = head.join("far", AWS_SECRET_ACCESS_KEY="wrong" * 8)
    try:
        said = program.run("submit", write("lacking", root=", root: /no/such"), exit_code=2)
    finally:
        head.kill(node)
    line = said.splitlines()[-1]
    assert line.startswith("Error: lacking-1: on ")
    assert "on every node: not there: tasks.root /no/such" in line
    assert ": the store cannot be used: " in line
    assert line.count("the store cannot be used") == 1  # the head has the right key
    assert list(open_store(s3_url).list("studies/")) == []


def test_study_with_local_places_is_refused_without_asking_the_cluster(
    program: Any,  # noqa: ANN401 as in conftest
    write: Callable[..., str],
) -> None:
    """One message lists all paths of the study that exist only on the submitter's machine."""
    study = write("local", root=", root: data", store="./store")
    said = program.run("submit", study, "--address", "http://127.0.0.1:1", exit_code=2)
    assert "2 problems" in said
    assert "store: './store' is a directory, which a cluster's nodes do not share" in said
    assert "tasks.root: 'data' is relative to this directory" in said


def test_study_that_was_never_submitted_is_bad_input(
    program: Any,  # noqa: ANN401 as in conftest
) -> None:
    """`logs`, `stop` and `watch` exit with 2 for a study that was never submitted."""
    for verb in ("logs", "stop", "watch"):
        assert "knows no submission of study 'never'" in program.run(verb, "never", exit_code=2)


def assert_no_secrets(head: Any, *, secrets: list[str], store_url: str) -> None:  # noqa: ANN401 as in conftest
    """Checks the Jobs API's answer, the nodes' files and the store's studies for secrets."""
    store = open_store(store_url)
    found = {
        "jobs": jobs(head).encode(),
        **{entry.key: store.get(entry.key) for entry in store.list("studies/")},
        **{str(path): path.read_bytes() for path in files_of(head.folder)},
    }
    assert any("job-driver-first-1.log" in name for name in found)
    for secret in secrets:
        assert [name for name, content in found.items() if secret.encode() in content] == []


def files_of(folder: Path) -> list[Path]:
    """Returns all regular files in a folder, without links and sockets."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
