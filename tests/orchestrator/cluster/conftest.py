"""A local Ray whose processes find the scripted worker."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import ray as ray_module

from orchestrator.cluster.connection import ray_connection

HERE = Path(__file__).parent
_RUNNING = ExitStack()
"""The Ray of this process. The modules of this folder share it, because a start takes seconds."""


@pytest.fixture(scope="module")
def ray() -> None:
    """Provides a local Ray, whose metrics are read several times a second."""
    if not ray_module.is_initialized():
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RAY_ADDRESS", raising=False)
            patch.setenv("PYTHONPATH", str(HERE))
            patch.setenv("RAY_metrics_report_interval_ms", "300")
            _RUNNING.enter_context(ray_connection(print))


@pytest.fixture(scope="module")
def no_ray() -> None:
    """Ends the local Ray for a module that starts one of another size."""
    _RUNNING.close()


@pytest.hookimpl(trylast=True)  # after the fixtures of that test, which still need the Ray
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Ends the local Ray after the last test of this folder."""
    if nextitem is None or HERE not in nextitem.path.parents:
        _RUNNING.close()
