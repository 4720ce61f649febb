import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text("utf-8")
Tool = Callable[..., subprocess.CompletedProcess[str]]


def test_dockerfile_is_clean(tool: Tool) -> None:
    """Hadolint finds no problem in the Dockerfile with all its rules on."""
    ended = tool("hadolint", DOCKERFILE)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("FROM node AS cpu", "FROM node AS"),
        ("ARG PYTHON=3.11.14-slim-bookworm\n\nFROM python:${PYTHON}", "FROM python"),
        ("uv==${UV}", "uv"),
        ("--no-cache-dir ", ""),
        ("WORKDIR /home/ray", "WORKDIR ray"),
        ("HEALTHCHECK --interval=15s", "HEALTHCHECK --every=15s"),
        ('CMD ["mergesweep", "--help"]', "CMD mergesweep --help"),
        ("COPY . /src", "ADD . /src"),
        ("USER 1000", "USER root"),
    ],
)
def test_broken_dockerfile_is_found(tool: Tool, right: str, wrong: str) -> None:
    """Hadolint finds syntax errors, versions that are not pinned, and a root user."""
    assert right in TEXT
    assert tool("hadolint", "-", stdin=TEXT.replace(right, wrong, 1)).returncode != 0


def test_every_package_is_installed_by_hash() -> None:
    """Every package is installed with a hash, except PyTorch's CPU builds and our own wheel.

    The CPU builds have the versions of the lock file.
    """
    installs = re.findall(r"uv pip install(?:[^\n]|\\\n)*", TEXT)
    unchecked = [each for each in installs if "--require-hashes" not in each]
    assert len(installs) == 4
    assert sorted(unchecked) == [
        "uv pip install --no-deps --prefix /opt/code /tmp/wheel/*.whl",
        "uv pip install --no-deps --torch-backend cpu -r /tmp/torch.txt",
    ]
    assert re.findall(r"uv build (?:[^\n]|\\\n)*", TEXT) != []
    assert "--build-constraints /tmp/requirements.txt --require-build-hashes" in TEXT
    for name in ("requirements.txt", "docker/requirements-mlflow.txt"):
        pins = re.findall(r"(?m)^[a-z][^ ]*==\S+(.*(?:\\\n.*)+)", (ROOT / name).read_text("utf-8"))
        assert len(pins) > 0
        assert [each for each in pins if "--hash=sha256:" not in each] == []


def names(requirements: str) -> set[str]:
    return set(re.findall(r"(?m)^([a-z0-9][\w.-]*)", requirements))


def test_image_without_gpus_lacks_what_only_they_need(tool: Tool) -> None:
    """The Dockerfile's filter removes the packages for GPUs, and no others, from the lock file."""
    found = re.search(r"awk '(.*)'", TEXT)
    assert found is not None
    requirements = ROOT / "requirements.txt"
    kept = tool("awk", found[1], requirements).stdout
    left_out = names(requirements.read_text("utf-8")) - names(kept)
    assert {"torch", "torchvision", "triton", "cuda-toolkit", "nvidia-cudnn-cu13"} <= left_out
    assert [name for name in left_out if not re.match("torch|triton|cuda-|nvidia-", name)] == []
    assert re.findall("(?m)^(nvidia|cuda|torch|triton)", kept) == []
    assert "ray" in names(kept)


def test_both_images_are_of_the_same_user_and_health_check() -> None:
    """Both images inherit the user and the health check from one stage and change neither."""
    assert re.findall(r"(?m)^FROM node AS (\w+)$", TEXT) == ["cpu", "gpu"]
    assert re.findall(r"(?m)^USER (.*)$", TEXT) == ["1000"]
    assert TEXT.index("AS node") < TEXT.index("USER 1000") < TEXT.index("FROM node AS cpu")
    assert TEXT.count("HEALTHCHECK") == 1


def stages() -> dict[str, str]:
    found = re.findall(r"(?ms)^FROM \S+ AS (\S+)$(.*?)(?=^FROM |\Z)", TEXT)
    return dict(found)


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_change_of_the_code_leaves_the_layer_of_packages_as_it_is(image: str) -> None:
    """The packages' layer comes from a stage without the code; the code's layer comes last."""
    copied = re.findall(r"(?m)^COPY (.*)$", stages()[image])
    assert copied == [
        f"--from=packages-{image} /opt/mergesweep /opt/mergesweep",
        "--from=code /opt/code /opt/mergesweep",
    ]
    assert [name for name, text in stages().items() if "COPY . " in text] == ["code"]


def test_health_check_is_as_patient_as_a_node_whose_trials_take_all_cores() -> None:
    """The health check allows 300 s for a start and 15 s for an answer.

    On a node whose trials use all cores, Ray takes minutes to start and over 5 s to answer.
    """
    found = re.search(r"--timeout=(\d+)s --start-period=(\d+)s .*(?:\n.*)timeout=(\d+)\)", TEXT)
    assert found is not None
    limit_s, start_s, answer_s = map(int, found.groups())
    assert answer_s < limit_s
    assert limit_s >= 15
    assert start_s >= 300


def test_build_sees_the_packages_and_nothing_private() -> None:
    """.dockerignore admits every package and the requirements, and no private file.

    It lists the admitted files, so a new package must be added there.
    """
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in lines
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert [each for each in packages if f"!{each.removesuffix('*')}" not in lines] == []
    copied = {"!requirements.txt", "!docker/requirements-mlflow.txt", "!pyproject.toml"}
    assert copied <= set(lines)
    assert [line for line in lines if "env" in line or "git" in line] == []


def test_keepalives_and_the_token_are_the_images_own() -> None:
    """The image itself sets keepalives and the token mode, so a manual start has them as well."""
    for setting in ("RAY_AUTH_MODE=token", "RAY_grpc_client_keepalive_time_ms=10000"):
        assert setting in TEXT
