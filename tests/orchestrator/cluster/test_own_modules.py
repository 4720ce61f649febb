from pathlib import Path

import pytest
from ray.core.generated.common_pb2 import JobConfig  # type: ignore[attr-defined]

from orchestrator.cluster.own_modules import OwnModulesConfig

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("is_kept", [False, True])
def test_workers_do_not_look_for_modules_in_the_users_folder(
    *, is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray adds the driver's folder, which stays only if it has our packages."""
    folder = ROOT if is_kept else tmp_path
    monkeypatch.chdir(folder)
    config = OwnModulesConfig()
    config._py_driver_sys_path.extend(["/of/the/script", str(folder)])
    found = JobConfig.FromString(config._serialize())
    assert list(found.py_driver_sys_path) == ["/of/the/script", *[str(folder)] * is_kept]
