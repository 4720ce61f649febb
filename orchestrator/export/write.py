"""Exports a model of a study into a new folder, which gets its name when it is whole."""

from pathlib import Path

from orchestrator.export.card import Card, card_text
from orchestrator.export.choice import Chosen, ChosenExpert, ChosenMerge
from orchestrator.record.committed import Committed
from workers.artifacts.metrics import MergeMetrics
from workers.export.outcome import Exported
from workers.store.atomic import temporary_beside

CARD_FILE = "README.md"


class ExportFolderError(Exception):
    """The folder of an export cannot be used; the message says what is there."""


def check_folder(path: Path) -> None:
    """Checks that nothing would be overwritten.

    Raises:
        ExportFolderError: The path is a file, or a folder with content, or in a folder that does
            not exist.
    """
    try:
        if path.exists() and not path.is_dir():
            raise ExportFolderError(f"{path} is a file; name a new folder")
        if path.is_dir() and any(path.iterdir()):
            raise ExportFolderError(f"{path} has content, which is never overwritten; name another")
        if not path.absolute().parent.is_dir():
            raise ExportFolderError(f"the folder {path.absolute().parent} does not exist")
    except OSError as error:
        raise ExportFolderError(f"{path} cannot be used: {error.strerror}") from error


def export(chosen: Chosen, *, committed: Committed, store_url: str, path: Path) -> Exported:
    """Makes a merge again or reads a trained model, checks it, and writes its folder with its card.

    Raises:
        ExportFolderError: The folder has content, or cannot be written.
        workers.export.outcome.DifferentModelError: The model is not the one that was evaluated;
            nothing was written.
        workers.workspace.MissingArtifactError: An artifact is not in the store.
        merge.errors.MergeError: The experts do not fit together.
    """
    check_folder(path)
    path = path.absolute()
    try:
        with temporary_beside(path) as temporary:
            temporary.mkdir()
            exported = _fill(temporary, chosen, committed=committed, store_url=store_url)
            temporary.chmod(0o755)
            temporary.rename(path)  # refuses a folder that has got content since
    except OSError as error:
        raise ExportFolderError(f"{path} cannot be written: {error.strerror}") from error
    return exported


def _fill(
    folder: Path,
    chosen: Chosen,
    *,
    committed: Committed,
    store_url: str,
) -> Exported:
    # Imported here because torch takes seconds to load: a wrong name is reported at once.
    from workers.export.model_folder import ModelFolder, TaskImages  # noqa: PLC0415
    from workers.export.models import (  # noqa: PLC0415
        Machine,
        export_expert,
        export_merge,
        export_multi_task,
    )

    plan = committed.plan
    tasks = {name: source.task for name, source in plan.sources.items()}
    models = ModelFolder(
        path=folder,
        image_size=plan.study.backbone.image_size,
        images={
            name: TaskImages(classes=task.classes, channels=task.channels)
            for name, task in tasks.items()
        },
    )
    resources = plan.study.resources
    share = resources.merge if isinstance(chosen, ChosenMerge) else resources.trial
    machine = Machine(
        store_url=store_url, num_threads=max(1, int(share.cpu)), uses_gpu=share.gpu > 0
    )
    if isinstance(chosen, ChosenMerge):
        manifest = committed.merges[chosen.cell.merge.id]
        exported = export_merge(
            chosen.cell.merge,
            recorded=MergeMetrics.from_json(manifest.metrics),
            folder=models,
            machine=machine,
        )
    elif isinstance(chosen, ChosenExpert):
        manifest = committed.experts[chosen.spec.id]
        exported = export_expert(chosen.spec, folder=models, machine=machine)
    else:
        manifest = committed.bases[chosen.cell.model.id]
        exported = export_multi_task(chosen.cell.model, folder=models, machine=machine)
    card = Card(plan=plan, chosen=chosen, manifest=manifest, exported=exported)
    (folder / CARD_FILE).write_text(card_text(card), encoding="utf-8")
    return exported
