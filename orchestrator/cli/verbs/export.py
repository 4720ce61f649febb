"""`mergesweep export`: write a model of a study as a folder that timm loads by itself."""

from pathlib import Path

from rich.console import Console

from orchestrator.cli.exit_codes import DONE
from orchestrator.cli.fast_exit import loading
from orchestrator.export.choice import ChosenMerge, Request, choose
from orchestrator.export.write import check_folder, export
from orchestrator.progress.say import say
from orchestrator.progress.visible_text import one_line
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy

_CHECKS = {
    "digest": "its weights have the digest that the evaluation recorded",
    "sums": "no digest of its weights was recorded; evaluated again, it has the stored sums",
    "file": "its file has the digest in the store",
}


def export_model(
    opened: OpenedStudy, request: Request, *, path: Path | None, console: Console
) -> int:
    """Chooses a model, has it made again, and prints where it is and how it was checked.

    Raises:
        ChoiceError, ExportFolderError: The request or the folder cannot be used.
        DifferentModelError: The model made again is not the one that was evaluated.
    """
    committed = opened.ledger.committed()
    chosen = choose(request, committed=committed, results=StudyResults.of(committed))
    is_merge = isinstance(chosen, ChosenMerge)
    model_id = chosen.cell.merge.id if isinstance(chosen, ChosenMerge) else chosen.spec.id
    kind = "merge" if is_merge else "expert"
    folder = path or Path(f"{committed.plan.study.name}-{kind}-{model_id}")
    check_folder(folder)
    if isinstance(chosen, ChosenMerge):
        cell = chosen.cell
        say(console, f"merge {model_id}: {cell.label} of {cell.group.name}, {cell.setting.name}")
    else:
        say(console, f"expert {model_id}: {chosen.spec.task}, {chosen.setting}")
    with loading(), console.status("making the model again"):
        exported = export(chosen, committed=committed, store_url=opened.store_url, path=folder)
    say(console, f"checked: {_CHECKS[exported.check]}")
    say(console, f"wrote {one_line(str(folder))}; its README.md has a program that uses it")
    return DONE
