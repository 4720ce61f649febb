"""`mergesweep export` and `mergesweep score`: models that leave a study and that enter it."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from eval.counts import counted
from orchestrator.cli.exit_codes import DONE
from orchestrator.cli.fast_exit import loading
from orchestrator.cli.leases import holding
from orchestrator.export.card import CHECKS
from orchestrator.export.choice import (
    ChoiceError,
    Chosen,
    ChosenExpert,
    ChosenMerge,
    Request,
    choose,
)
from orchestrator.export.write import check_folder, export
from orchestrator.external.score import heads_of, label_of, score, weights_file
from orchestrator.progress.say import say
from orchestrator.progress.visible_text import one_line
from orchestrator.record.external import ExternalScores, with_scores, write_external
from orchestrator.report.wording import percent
from orchestrator.results.means import Row
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.write_outputs import write_outputs


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
    kind, model_id, place = _described(chosen)
    folder = path or Path(f"{committed.plan.study.name}-{kind.replace(' ', '-')}-{model_id}")
    check_folder(folder)
    say(console, f"{kind} {model_id}: {place}")
    with loading(), console.status("making the model again"):
        exported = export(chosen, committed=committed, store_url=opened.store_url, path=folder)
    say(console, f"checked: {CHECKS[exported.check]}")
    say(console, f"wrote {one_line(str(folder))}; its README.md has a program that uses it")
    return DONE


def _described(chosen: Chosen) -> tuple[str, str, str]:
    """Returns a model's kind, its id, and where it stands in the tables."""
    if isinstance(chosen, ChosenExpert):
        return "expert", chosen.spec.id, f"{chosen.spec.task}, {chosen.setting}"
    place = f"{chosen.cell.group.name}, {chosen.cell.setting.name}"
    if isinstance(chosen, ChosenMerge):
        return "merge", chosen.cell.merge.id, f"{chosen.cell.label} of {place}"
    return "multi-task model", chosen.cell.model.id, place


def score_files(
    opened: OpenedStudy,
    paths: Sequence[Path],
    *,
    label: str | None,
    setting: str | None,
    group: str | None,
    console: Console,
) -> int:
    """Scores files on a group or on all, stores the scores, and writes tables and report again.

    Args:
        opened: The study.
        paths: Files of weights, or folders with one.
        label: Name in the tables, for one file; None for the names of the files.
        setting: The setting whose heads are used; None if the study has one.
        group: The group; None for all groups of the setting.
        console: Where to print.

    Raises:
        ChoiceError: Files, names or labels cannot be used.
        LeaseError: Another driver holds the study.
    """
    files = _by_label(paths, label=label)
    committed = opened.ledger.committed()
    heads = heads_of(committed, setting=setting, group=group)
    say(
        console,
        f"{counted(len(files), 'file')} under the heads of {heads.setting.name}, "
        f"{counted(len(heads.experts), 'task')}, {counted(len(heads.groups), 'group')}",
    )
    with holding(opened.artifacts.store, [opened.folder.name], console=console):
        with loading():
            found = list(
                score(
                    files,
                    heads=heads,
                    committed=committed,
                    store_url=opened.store_url,
                    now_s=time.time(),
                    say=lambda text: say(console, text),
                )
            )
        everything = committed.external
        for scores in found:
            everything = with_scores(everything, scores)
        write_external(opened.folder, everything)
        results = StudyResults.of(opened.reopened().ledger.committed())
        write_outputs(opened, results=results)
    _print(results, found=found, console=console)
    return DONE


def _by_label(paths: Sequence[Path], *, label: str | None) -> dict[str, Path]:
    """Returns the files by their names in the tables.

    Raises:
        ChoiceError: Two files have the same name, or a folder has no weights.
    """
    if label is not None and len(paths) > 1:
        raise ChoiceError("--label names one file; score several files one at a time, or unnamed")
    files: dict[str, Path] = {}
    for path in paths:
        name = label or label_of(path)
        if name in files:
            raise ChoiceError(f"two files are called {name!r}; score one of them with --label")
        files[name] = weights_file(path)
    return files


def _print(results: StudyResults, *, found: Sequence[ExternalScores], console: Console) -> None:
    """Prints the scores of each file on each group, in percent."""
    rows = [] if results.external is None else results.external.to_pylist()
    for scores in found:
        for group in scores.groups:
            place = {"method": scores.label, "setting": scores.setting, "group": group}
            of_group = [row for row in rows if place.items() <= row.items()]
            say(console, f"{scores.label}, {group}: {', '.join(map(_score, of_group))}")
        say(console, f"  external, sha256 {scores.sha256}")


def _score(row: Row) -> str:
    return f"{row['task']} {percent(row['accuracy'])}"
