"""A local Ray whose processes find the scripted worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster.connection import ray_connection


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """Runs a local Ray for the tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        with ray_connection(print):
            yield
