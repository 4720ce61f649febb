import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.scripts import scripts, symmetric_run

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm" / "mergesweep.sbatch"
Tool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def started(tmp_path: Path) -> dict[str, str]:
    """Runs the script as Slurm does on its first node; returns `srun`'s call and environment."""
    (tmp_path / "study.yaml").write_text("name: here\n")
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "$@" > called\nenv > environment\n')
    srun.chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "4",
        "PATH": f"{tmp_path}:/usr/bin:/bin",
    }
    subprocess.run(["bash", SCRIPT, "study.yaml"], cwd=tmp_path, env=slurm, check=True)
    environment = (tmp_path / "environment").read_text().splitlines()
    found = dict(line.split("=", 1) for line in environment if "=" in line)
    return {**found, "called": (tmp_path / "called").read_text(), "folder": str(tmp_path)}


def test_script_is_clean(tool: Tool) -> None:
    """Bash and shellcheck find no problem in the script."""
    assert tool("bash", "-n", SCRIPT).returncode == 0
    ended = tool("shellcheck", "--shell=bash", SCRIPT)
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"$address" --min-nodes', "$address --min-nodes"),
        ('mergesweep run "$study"', "mergesweep run $study"),
        ("address=$head", "adress=$head"),
        ("| tr --delete ' \\n')", "| tr --delete ' \\n'"),
    ],
)
def test_broken_script_is_found(tool: Tool, right: str, wrong: str) -> None:
    """Shellcheck finds unquoted words, misspelt names and unclosed brackets."""
    text = SCRIPT.read_text("utf-8")
    assert right in text
    ended = tool("shellcheck", "--shell=bash", "-", stdin=text.replace(right, wrong, 1))
    assert ended.returncode != 0


HEAD_ONLY = {"--head", "--port", "--include-dashboard", "--redis-shard-ports"}
"""Options that `ray start` refuses on a worker: the command line is the same on all nodes."""


def unknown_options(call: str) -> list[str]:
    """Returns options before `--` that `ray symmetric-run` or `ray start` refuses on some node."""
    words = shlex.split(call)
    options = words[words.index("symmetric-run") + 1 : words.index("--")]
    parameters = (*symmetric_run.symmetric_run.params, *scripts.start.params)
    known = {name for each in parameters for name in each.opts} - HEAD_ONLY
    return [each for each in options if each.startswith("--") and each.split("=")[0] not in known]


def test_every_node_runs_the_same_line(started: dict[str, str]) -> None:
    """Every node runs the same line, and its address makes it head or worker.

    The study runs on the head and uses the cluster of that head.
    """
    call = started["called"]
    assert unknown_options(call) == []
    for wrong in ("--gpus", "--include-dashboard"):
        assert unknown_options(call.replace("--num-gpus", wrong)) == [f"{wrong}=4"]
    found = re.search(r"--address ([\d.]+:\d+) --min-nodes 2 --num-cpus=8 --num-gpus=4 ", call)
    assert found is not None
    assert found[1].endswith(":23456")
    study = f"{started['folder']}/study.yaml"
    assert call.endswith(f"-- env RAY_ADDRESS={found[1]} mergesweep run {study}\n")


def test_every_process_has_the_token_and_notices_silent_hosts(started: dict[str, str]) -> None:
    """Each job has a new token, which `srun` passes on together with the keepalive settings."""
    assert started["RAY_AUTH_MODE"] == "token"
    assert re.fullmatch(r"[0-9a-f]{64}", started["RAY_AUTH_TOKEN"])
    assert started["RAY_AUTH_TOKEN"] not in started["called"]
    assert started["RAY_grpc_client_keepalive_time_ms"] == "10000"
    assert started["RAY_grpc_client_keepalive_timeout_ms"] == "10000"


def test_without_a_study_it_says_how_to_call_it(tool: Tool) -> None:
    """Without a study, the script prints its usage and exits before it starts anything."""
    ended = tool("bash", SCRIPT)
    assert ended.returncode != 0
    assert "usage: sbatch mergesweep.sbatch STUDY.yaml" in ended.stderr
