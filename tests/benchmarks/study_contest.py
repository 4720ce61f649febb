"""Runs a study with mergesweep and with a capable user's script, and compares time and results.

Both write to the same S3 server on this machine, which counts requests and bytes, and to MLflow in
an SQLite file. The study's computing alone (`study_floor.py`) is timed too. With `--kill-after`,
each is killed once with all its processes and started again.
"""

import argparse
import contextlib
import io
import json
import math
import os
import secrets
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import study_floor
import yaml

sys.path.append(str(Path(__file__).parents[1] / "chaos"))
from parts import Part, free_ports, wait_until_ready
from servers import S3Server

from eval.digests import sha256_of_bytes
from orchestrator.results.schema import MEANS

OURS, NAIVE = "mergesweep", "script"
MAX_DIFFERENCE = 1e-4
"""Greatest difference between two accuracies or losses that count as equal."""
_READY_S = 120.0
_POLL_S = 0.1
_GROUPS = Path("/sys/fs/cgroup")
_OLD_GROUPS = _GROUPS / "cpuacct"
"""Where the first version of control groups counts CPU time."""
_COUNTERS = {
    "num_requests": "SeaweedFS_s3_request_total",
    "received": "SeaweedFS_s3_bucket_traffic_received_bytes_total",
    "sent": "SeaweedFS_s3_bucket_traffic_sent_bytes_total",
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one contestant took."""

    wall_s: float
    cpu_s: float
    """Of all its processes, Ray's and MLflow's included, the S3 server's not."""
    num_requests: float
    uploaded_mb: float
    downloaded_mb: float

    def row(self, name: str) -> str:
        """Returns a line of the table."""
        return (
            f"| {name} | {self.wall_s:.1f} s | {self.cpu_s:.0f} s | {self.num_requests:.0f} | "
            f"{self.uploaded_mb:.0f} MB | {self.downloaded_mb:.0f} MB |"
        )


class Contest:
    """A study, and the server that both contestants use."""

    def __init__(self, study: Path, *, folder: Path) -> None:
        """Prepares the folder; `with contest.serving()` starts the server."""
        self._folder = folder
        self._environment = {
            **{name: each for name, each in os.environ.items() if not name.startswith("AWS_")},
            "AWS_ACCESS_KEY_ID": secrets.token_hex(8),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        ports = free_ports()
        self._metrics = f"http://127.0.0.1:{(metrics := next(ports))}/metrics"
        self._server = S3Server(
            folder=folder,
            ports=ports,
            environment=self._environment,
            options=[f"-metricsPort={metrics}"],
        )
        self._environment["AWS_ENDPOINT_URL"] = self._server.endpoint_url
        self.store = f"s3://{OURS}/store?endpoint_url={self._server.endpoint_url}"
        self.study = folder / "study.yaml"
        written = yaml.safe_load(study.read_text())
        written.pop("baselines", None)  # the script trains no multi-task models
        tracking = f"sqlite:///{folder / 'mlflow.db'}"
        self.study.write_text(
            yaml.safe_dump({**written, "store": self.store, "tracking": tracking})
        )
        self.name = written["name"]
        here = Path(sys.executable).parent
        script = Path(__file__).with_name("naive_study.py")
        options = ["--bucket", NAIVE, "--folder", str(folder / NAIVE)]
        commands = {
            OURS: [str(here / "mergesweep"), "run", str(self.study)],
            NAIVE: [sys.executable, str(script), str(self.study), *options],
        }
        self._parts = {
            name: Part(
                name,
                [
                    "sh",
                    "-c",
                    'echo $$ > "$0" && exec "$@"',
                    str(_group(name) / "cgroup.procs"),
                    *command,
                ],
                environment=self._environment,
                folder=folder,
            )
            for name, command in commands.items()
        }

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Runs the server with a bucket for each contestant."""
        self._server.part.start()
        try:
            wait_until_ready(self._server.part, self._server.is_ready, timeout_s=_READY_S)
            os.environ.update(self._environment)  # for this process's own requests
            client = boto3.client("s3")
            for bucket in (OURS, NAIVE):
                client.create_bucket(Bucket=bucket)
            yield
        finally:
            self._server.part.kill()
            for name in self._parts:
                _group(name).rmdir()

    def run(self, name: str, *, kill_after_s: float | None = None) -> Cost:
        """Runs a contestant to its end, or kills it with all its processes after some seconds."""
        part = self._parts[name]
        cpu_s, counted, began_s = _cpu_s(name), self._counted(name), time.monotonic()
        part.start()
        while part.poll() is None and time.monotonic() - began_s < (kill_after_s or math.inf):
            time.sleep(_POLL_S)
        wall_s, code = time.monotonic() - began_s, part.poll()
        part.kill()
        if code not in (0, None):
            raise SystemExit(f"{name} ended with {code}: {part.tail()}")
        used = {key: each - counted[key] for key, each in self._counted(name).items()}
        return Cost(
            wall_s=wall_s,
            cpu_s=_cpu_s(name) - cpu_s,
            num_requests=used["num_requests"],
            uploaded_mb=used["received"] / 1e6,
            downloaded_mb=used["sent"] / 1e6,
        )

    def differences(self) -> list[float]:
        """Returns, for each row of both tables, how far accuracy or loss differ between the two.

        A setting that two axes share is in our tables twice and was run once.
        """
        theirs = json.loads((self._folder / NAIVE / "scores.json").read_text())
        merged = {
            (each["setting"], each["label"], group, task): scores
            for each in theirs["merges"]
            for group, tasks in json.loads(each["scores"]).items()
            for task, scores in tasks.items()
        }
        tuned = {(each["setting"], each["task"]): each for each in theirs["experts"]}
        rows, experts = self._rows("results"), self._rows("experts")
        first = {(row["merge_id"], row["task"]): row for row in reversed(rows)}
        own = {
            (row["setting"], row["method"], row["group"], row["task"]): row
            for row in first.values()
            if row["task"] not in MEANS
        }
        own_experts = {row["expert_id"]: row for row in reversed(experts)}
        return [
            *_differences(own, merged),
            *_differences(
                {(row["setting"], row["task"]): row for row in own_experts.values()}, tuned
            ),
        ]

    def table(self, name: str) -> bytes:
        """Returns a table that `mergesweep run` wrote: `results` or `experts`."""
        key = f"store/studies/{self.name}/{name}.parquet"
        content: bytes = boto3.client("s3").get_object(Bucket=OURS, Key=key)["Body"].read()
        return content

    def _rows(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = pq.read_table(io.BytesIO(self.table(name))).to_pylist()
        return found

    def _counted(self, bucket: str) -> dict[str, float]:
        """Returns the server's counts for a bucket."""
        with urllib.request.urlopen(self._metrics) as answer:
            lines = answer.read().decode().splitlines()
        of_bucket = [line for line in lines if f'bucket="{bucket}"' in line]
        return {
            key: sum(float(line.split()[-1]) for line in of_bucket if line.startswith(name + "{"))
            for key, name in _COUNTERS.items()
        }


def _differences(ours: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> list[float]:
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    return [
        max(abs(row[name] - theirs[key][name]) for name in ("accuracy", "loss"))
        for key, row in ours.items()
    ]


def _group(name: str) -> Path:
    """Returns a contestant's control group, in which the kernel counts CPU time; needs root."""
    folder = (_OLD_GROUPS if _OLD_GROUPS.exists() else _GROUPS) / f"contest-{os.getpid()}-{name}"
    folder.mkdir(exist_ok=True)
    return folder


def _cpu_s(name: str) -> float:
    group = _group(name)
    if _OLD_GROUPS.exists():
        return int((group / "cpuacct.usage").read_text()) / 1e9
    usage = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(usage["usage_usec"]) / 1e6


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--kill-after", type=float, help="seconds after which to kill each once")
    parser.add_argument("--only", choices=[OURS, NAIVE], help="leave the other contestant out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(arguments.study, folder=Path(folder))
        with contest.serving():
            _print_costs(contest, kill_after_s=arguments.kill_after, only=arguments.only)


def _print_costs(contest: Contest, *, kill_after_s: float | None, only: str | None) -> None:
    _print("| | wall | CPU | requests | uploaded | downloaded |")
    _print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in [only] if only else [OURS, NAIVE]:
        if kill_after_s is not None:
            _print(contest.run(name, kill_after_s=kill_after_s).row(f"{name}, killed"))
        _print(contest.run(name).row(name))
        if name == OURS:
            floor = study_floor.measure(contest.study)
            parts = f"training {floor.training_s:.1f} s and merging {floor.merging_s:.1f} s alone"
            _print(f"| {parts} | {floor.wall_s:.1f} s | {floor.cpu_s:.0f} s | | | |")
            digests = [sha256_of_bytes(contest.table(each)) for each in ("results", "experts")]
            _print(f"| sha256 of its tables: {digests[0][:8]} and {digests[1][:8]} | | | | | |")
    if only is None:
        differences = contest.differences()
        num_over = sum(each > MAX_DIFFERENCE for each in differences)
        _print(
            f"\n{num_over} of {len(differences)} rows differ by more than {MAX_DIFFERENCE}; the "
            f"greatest difference is {max(differences):.1e}"
        )


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 its output


if __name__ == "__main__":
    main()
