from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workers.artifacts.manifests import Manifest
from workers.artifacts.node_cache import CACHE_VARIABLE
from workers.export.model_folder import ADAPTER_FOLDER, ModelFolder, TaskImages
from workers.export.models import Machine, export_expert
from workers.models.lora.files import ADAPTER_FILE, CONFIG_FILE
from workers.specs.expert import ExpertSpec
from workers.workspace import Workspace

pytest.importorskip("peft")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the export out of the node's cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "node"))


@pytest.mark.parametrize("rank", [0, 2])
def test_export_of_an_expert_has_its_adapter_if_it_has_one(
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
    workspace: Workspace,
    tmp_path: Path,
    rank: int,
) -> None:
    """The folder beside the dense weights has the bytes of both files of the artifact."""
    changes: dict[str, Any] = {"lora_rank": rank, "lora_alpha": 2.0 * rank}
    spec = make_expert(freeze_batch_norm=True, **changes)
    (manifest,) = run(spec, workspace=workspace)
    folder = tmp_path / "exported"
    folder.mkdir()
    images = {spec.task: TaskImages(classes=tuple("0123456789"), channels=1)}
    machine = Machine(store_url=workspace.artifacts.store.url, num_threads=1, uses_gpu=False)
    export_expert(
        spec, folder=ModelFolder(path=folder, image_size=32, images=images), machine=machine
    )
    found = {path.name: path.read_bytes() for path in (folder / ADAPTER_FOLDER).glob("*")}
    names = (CONFIG_FILE, ADAPTER_FILE) if rank else ()
    assert found == {
        name: workspace.file("expert", manifest.id, name).read_bytes() for name in names
    }
