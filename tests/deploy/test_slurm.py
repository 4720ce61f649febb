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
    """Runs the script as Slurm does on its first node; `srun` writes down how it is called."""
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
    """By bash itself and by shellcheck with all that it knows."""
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
    """Unquoted words, misspelt names, brackets that do not close."""
    text = SCRIPT.read_text("utf-8")
    assert right in text
    ended = tool("shellcheck", "--shell=bash", "-", stdin=text.replace(right, wrong, 1))
    assert ended.returncode != 0


HEAD_ONLY = {"--head", "--port", "--include-dashboard", "--redis-shard-ports"}
"""Options of `ray start` that it refuses on a worker; the line is the same on all nodes."""


def unknown_options(call: str) -> list[str]:
    """Returns the options before `--` that `ray symmetric-run` and `ray start` do not all take."""
    words = shlex.split(call)
    options = words[words.index("symmetric-run") + 1 : words.index("--")]
    parameters = (*symmetric_run.symmetric_run.params, *scripts.start.params)
    known = {name for each in parameters for name in each.opts} - HEAD_ONLY
    return [each for each in options if each.startswith("--") and each.split("=")[0] not in known]


def test_every_node_runs_the_same_line(started: dict[str, str]) -> None:
    """Each becomes head or worker by its address; the study runs on the head, on that cluster."""
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
    """`srun` passes the environment on; the token is new for each job."""
    assert started["RAY_AUTH_MODE"] == "token"
    assert re.fullmatch(r"[0-9a-f]{64}", started["RAY_AUTH_TOKEN"])
    assert started["RAY_AUTH_TOKEN"] not in started["called"]
    assert started["RAY_grpc_client_keepalive_time_ms"] == "10000"
    assert started["RAY_grpc_client_keepalive_timeout_ms"] == "10000"


def test_without_a_study_it_says_how_to_call_it(tool: Tool) -> None:
    """Before anything is started."""
    ended = tool("bash", SCRIPT)
    assert ended.returncode != 0
    assert "usage: sbatch mergesweep.sbatch STUDY.yaml" in ended.stderr
