import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from gunicorn.config import Config

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
SECRETS = ("S3_ACCESS_KEY", "S3_SECRET_KEY", "POSTGRES_PASSWORD", "RAY_AUTH_TOKEN")
GIVEN = dict.fromkeys(SECRETS, "given")
_OVERFLOW = 10  # connections that SQLAlchemy opens beyond a full pool
_MAX_CONNECTIONS = 100  # of PostgreSQL, unless it is told otherwise
Tool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=[["compose.yaml"], ["compose.yaml", "gpu.yaml"]], ids=["cpu", "gpu"])
def composed(request: pytest.FixtureRequest, tool: Tool) -> dict[str, Any]:
    """Returns the services as Docker Compose resolves them."""
    options = [part for name in request.param for part in ("-f", FOLDER / name)]
    ended = tool("docker-compose", *options, "config", environment=GIVEN)
    assert ended.returncode == 0, ended.stderr
    services: dict[str, Any] = yaml.safe_load(ended.stdout)["services"]
    return services


def test_compose_file_is_valid(composed: dict[str, Any]) -> None:
    """Docker Compose accepts the file and finds four services and the job that makes the bucket."""
    assert composed.keys() == {"ray", "s3", "bucket", "postgres", "mlflow"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("restart: unless-stopped", "restarts: always"),
        ("    image: postgres:15.18", "    image: [postgres]"),
        ("127.0.0.1:5000:5000", "127.0.0.1:five:5000"),
        ("shm_size: 8gb", "shm_size: large"),
        ("condition: service_healthy", "condition: healthy"),
        ("      interval: 5s", "      interval: soon"),
        ("bucket: {condition", "buckets: {condition"),
        ("init: true", "init: perhaps"),
        ("services:\n", "service:\n"),
        ("      - s3:/data", "      - s4:/data"),
    ],
)
def test_broken_field_is_found(tool: Tool, tmp_path: Path, right: str, wrong: str) -> None:
    """Docker Compose refuses wrong names, types and references between services."""
    text = (FOLDER / "compose.yaml").read_text("utf-8")
    assert right in text
    broken = tmp_path / "compose.yaml"
    broken.write_text(text.replace(right, wrong, 1), "utf-8")
    assert tool("docker-compose", "-f", broken, "config", "-q", environment=GIVEN).returncode != 0


@pytest.mark.parametrize("secret", SECRETS)
def test_nothing_starts_without_its_secrets(tool: Tool, secret: str) -> None:
    """Docker Compose refuses to start without each secret: the file contains no default."""
    given = {name: each for name, each in GIVEN.items() if name != secret} | {secret: ""}
    ended = tool("docker-compose", "-f", FOLDER / "compose.yaml", "config", "-q", environment=given)
    assert ended.returncode != 0
    assert f"{secret} is missing a value" in ended.stderr


def test_ports_are_on_loopback_only(composed: dict[str, Any]) -> None:
    """The dashboard, MLflow and the store listen on loopback only, not on the host's network."""
    ports = [port for each in composed.values() for port in each.get("ports", [])]
    assert len(ports) == 3
    assert {each["host_ip"] for each in ports} == {"127.0.0.1"}


def test_ray_asks_for_the_token_and_notices_silent_hosts(composed: dict[str, Any]) -> None:
    """Ray's container requires the token and sends keepalives; drivers inside inherit both."""
    environment = composed["ray"]["environment"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN"] == "given"
    assert environment["RAY_grpc_client_keepalive_time_ms"] == "10000"
    assert environment["RAY_grpc_client_keepalive_timeout_ms"] == "10000"


def mlflow_on_kubernetes() -> dict[str, Any]:
    text = (FOLDER.parent / "kuberay" / "base" / "mlflow.yaml").read_text("utf-8")
    deployment = next(each for each in yaml.safe_load_all(text) if each["kind"] == "Deployment")
    container: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return container


def test_mlflow_is_the_same_as_on_kubernetes(composed: dict[str, Any]) -> None:
    """MLflow has the same command, options and start-up time in Compose as on Kubernetes."""
    elsewhere = mlflow_on_kubernetes()
    assert composed["mlflow"]["command"] == [*elsewhere["command"], *elsewhere["args"]]
    probe = elsewhere["startupProbe"]
    allowed_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert composed["mlflow"]["healthcheck"]["start_period"] == f"{allowed_s // 60}m0s"


def test_workers_of_mlflow_have_threads_and_time(composed: dict[str, Any]) -> None:
    """A worker may be silent for a minute, as trials use all cores, and reads while it writes.

    Gunicorn knows every option, and its pools together leave connections free.
    """
    given = [each for each in composed["mlflow"]["command"] if each.startswith("--gunicorn-opts=")]
    assert len(given) == 1
    options = shlex.split(given[0].partition("=")[2])
    parsed = Config().parser().parse_args(options)
    assert parsed.worker_class == "gthread"
    assert parsed.threads >= 4
    assert parsed.timeout >= 60
    workers = next(each for each in composed["mlflow"]["command"] if each.startswith("--workers="))
    pool = int(composed["mlflow"]["environment"]["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"])
    assert int(workers.partition("=")[2]) * (pool + _OVERFLOW) < _MAX_CONNECTIONS
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" in composed["mlflow"]["environment"]


def test_mlflow_runs_alike_on_kubernetes(composed: dict[str, Any]) -> None:
    """Both files have the server that was measured."""
    path = FOLDER.parent / "kuberay" / "base" / "mlflow.yaml"
    _, deployment = yaml.safe_load_all(path.read_text("utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    options = ("--workers", "--gunicorn-opts")
    args = [each for each in container["args"] if each.startswith(options)]
    assert args == [each for each in composed["mlflow"]["command"] if each.startswith(options)]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    for name in ("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "MLFLOW_SERVER_ALLOWED_HOSTS"):
        assert variables[name] == composed["mlflow"]["environment"][name]


def test_what_stays_up_is_pinned_and_watched(composed: dict[str, Any]) -> None:
    """Images are pinned, and services have health checks.

    Ray's health check is part of its image; the bucket's job ends and needs none.
    """
    for name, service in composed.items():
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", service["image"])
        assert ("test" in service.get("healthcheck", {})) is (name not in ("ray", "bucket"))


def test_our_user_can_write_to_the_volumes(composed: dict[str, Any]) -> None:
    """The image creates the folder of the volume for its own user.

    A new volume takes its owner from that folder; without the folder, root owns the volume.
    """
    made = (FOLDER.parents[1] / "docker" / "Dockerfile").read_text("utf-8")
    targets = [
        volume["target"]
        for service in composed.values()
        if service["image"].startswith("registry.example/mergesweep:")
        for volume in service.get("volumes", [])
        if volume["type"] == "volume"
    ]
    assert targets == ["/home/ray/.cache"]
    assert f"install --directory --owner=ray --group=ray {targets[0]}\n" in made


def test_gpus_are_the_only_difference(tool: Tool) -> None:
    """gpu.yaml changes only the image and devices of Ray's service, and Compose checks it."""
    text = (FOLDER / "gpu.yaml").read_text("utf-8")
    assert yaml.safe_load(text)["services"].keys() == {"ray"}
    assert yaml.safe_load(text)["services"]["ray"].keys() == {"image", "deploy"}
    broken = text.replace("capabilities: [gpu]", "capabilities: gpu")
    base = FOLDER / "compose.yaml"
    ended = tool(
        "docker-compose", "-f", base, "-f", "-", "config", "-q", environment=GIVEN, stdin=broken
    )
    assert ended.returncode != 0
