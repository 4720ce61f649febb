"""`mergesweep prepare` through the real command line, on the Ray of this module."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from known_models import remember_models

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray")]


def prepare(study: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end in the study's folder."""
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    remember_models(study.parent / "cache")
    return subprocess.run(
        [str(Path(sys.executable).with_name("mergesweep")), "prepare", str(study)],
        cwd=study.parent,
        env={**environment, "MERGESWEEP_CACHE": str(study.parent / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_preparation_makes_base_and_images_once_and_nothing_else(
    study_fields: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """It lists what it made, and a second call has nothing to do."""
    study = tmp_path / "study.yaml"
    tasks = {"names": ["mnist_5k", "emoji_objects"], "max_train": 64, "max_test": 32}
    study.write_text(yaml.safe_dump(study_fields(tasks=tasks)))
    first = prepare(study)
    assert first.returncode == 0, first.stdout + first.stderr
    for task in tasks["names"]:
        assert f"prepared {task} 96 of 96 images" in first.stdout
    assert "the base and the images of study small are prepared" in first.stdout
    store = tmp_path / "store"
    manifests = sorted(store.glob("artifacts/*/*/*/manifest.json"))
    assert [path.parts[-4] for path in manifests] == ["base", "data", "data"]
    assert not list(store.glob("in-flight/*/*"))
    second = prepare(study)
    assert second.returncode == 0
    assert "are prepared: nothing is left" in second.stdout
    assert sorted(store.glob("artifacts/*/*/*/manifest.json")) == manifests
