"""`mergesweep advise`: rank untried settings of a study, and write the study that tests them."""

import json
import math
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator.advice.advice import MethodAdvice, advise, advised_points
from orchestrator.advice.candidates import Values
from orchestrator.advice.cost import costs_of
from orchestrator.advice.next_study import next_name, next_study_text, steps_study_text
from orchestrator.advice.ranking import Ranking
from orchestrator.advice.task_steps import StepsAdvice, advise_steps
from orchestrator.advice.words import (
    comments,
    gain_text,
    interval_text,
    range_text,
    ranking_sentences,
    record_sentences,
    steps_sentences,
)
from orchestrator.cli.ending import command_line, file_command_line
from orchestrator.cli.exit_codes import DONE
from orchestrator.plan.plan import build_plan
from orchestrator.progress.say import print_table, say
from orchestrator.progress.visible_text import one_line
from orchestrator.record.data_check import prepared_data
from orchestrator.record.folder import study_names
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.study.reader import parse_study
from orchestrator.study.schema import Study
from orchestrator.theory.measured import measured_bases
from orchestrator.theory.trainings import planned_trainings
from workers.artifacts.node_cache import cache_root
from workers.store.opening import open_store
from workers.store.output_file import check_output, write_output

WIDTH = 80
MAX_SETTING_WIDTH = 30
"""Columns of a setting's name; a longer one goes on in the next line, so that a table fits."""


def show_advice(
    opened: OpenedStudy,
    *,
    values: Values | None,
    methods: Sequence[str],
    output: Path | None,
    as_json: bool,
    only_steps: bool,
    console: Console,
) -> int:
    """Prints the advice on a study, and writes the study file that tests it; returns the exit code.

    A study on which no advice can be given is no failure: the lines say what it lacks.

    Args:
        opened: A study of any age.
        values: Candidate values by axis; None for a grid around the tried ones.
        methods: The methods to advise on; all if empty.
        output: The study file to write; None for none.
        as_json: Print JSON in place of tables.
        only_steps: Advise on the steps of each task alone, and write the study that chooses them.
        console: Where to print.

    Raises:
        OutputError: The file cannot be written.
    """
    if output is not None:
        check_output(output)
    steps = _steps(opened, methods=methods)
    advice, missing = ([], []) if only_steps else _advice(opened, values=values, methods=methods)
    name = next_name(opened.plan.study.name, taken=study_names(open_store(opened.store_url)))
    following = _steps_next(steps) if only_steps else _points_next(advice)
    if output is not None and following is not None:
        write_output(output, _checked(opened, following, name=name).encode())
    if as_json:
        summary = {
            "study": opened.plan.study.name,
            "missing": missing,
            "methods": [_json(each) for each in advice],
            "steps": asdict(steps),
            "next": {"name": name, "points": [vars(each) for each in advised_points(advice)]},
        }
        json.dump(_finite(summary), sys.stdout, indent=1, allow_nan=False)
        sys.stdout.write("\n")
        return DONE
    for line in missing:
        _say(console, line)
    for each in advice:
        _print_method(each, console=console)
    _print_steps(opened, steps=steps, only_steps=only_steps, console=console)
    _print_next(opened, following, output=output, name=name, console=console)
    return DONE


def _advice(
    opened: OpenedStudy, *, values: Values | None, methods: Sequence[str]
) -> tuple[list[MethodAdvice], list[str]]:
    """Returns the advice, and sentences on what the study as a whole lacks."""
    committed = opened.ledger.committed()
    results = StudyResults.of(committed)
    missing = []
    if num := len(committed.missing_merges):
        missing.append(
            f"The study is unfinished: {num:,} of {len(opened.plan.merges):,} merges are missing. "
            f"The advice is from the others; to finish it: {command_line('resume', opened)}"
        )
    trainings = planned_trainings(committed)
    if isinstance(trainings, str):
        return [], [*missing, f"No advice: {trainings}."]
    if not results.merges.num_rows:
        return [], [*missing, "No advice: no merge has a result yet."]
    bases, _ = measured_bases(opened.artifacts, opened.plan, cache_root=cache_root())
    data = prepared_data(committed)
    advice = advise(
        results.merges,
        plan=opened.plan,
        trainings=trainings,
        num_train={task: each.num_train for task, each in data.items()},
        measured=None if isinstance(bases, str) else bases,
        costs=costs_of(
            opened.plan,
            committed=opened.artifacts.committed_ids("expert"),
            num_test={task: each.num_test for task, each in data.items()},
        ),
        values=values,
        methods=methods,
    )
    return advice, missing


def _steps(opened: OpenedStudy, *, methods: Sequence[str]) -> StepsAdvice:
    results = StudyResults.of(opened.ledger.committed()).merges
    return advise_steps(results, plan=opened.plan, methods=methods)


@dataclass(frozen=True, kw_only=True)
class _Next:
    """A study that would follow from the advice."""

    about: str
    """Its settings or methods, in words."""
    write: Callable[..., str]
    """Returns its file, from `text`, `study` and `name`."""
    option: str = ""
    """The option of `advise` that writes it, beside `-o`."""
    trains: bool = True
    """Whether it may train experts."""


def _points_next(advice: Sequence[MethodAdvice]) -> _Next | None:
    """Returns the study that tests the advice on settings; None if nothing is to be tested."""
    points = advised_points(advice)
    if not points:
        return None

    def write(text: str, *, study: Study, name: str) -> str:
        head = list(comments(advice, name=study.name))
        return next_study_text(text, study=study, name=name, points=points, comments=head)

    about = f"{len(points)} settings, the best so far of each method among them"
    return _Next(about=about, write=write)


def _steps_next(steps: StepsAdvice) -> _Next | None:
    """Returns the study whose merges choose steps; None if there is none to be made."""
    entry = steps.entry
    if entry is None:
        return None

    def write(text: str, *, study: Study, name: str) -> str:
        head = [f"Chooses the steps of each task among the snapshots of {study.name}."]
        return steps_study_text(text, study=study, name=name, entry=entry, comments=head)

    about = "the entry of merge with the least loss, as it is and with chosen steps"
    return _Next(about=about, write=write, option="--steps ", trains=False)


def _checked(opened: OpenedStudy, following: _Next, *, name: str) -> str:
    """Returns the file of a next study, after checking that it can be planned."""
    plan = opened.plan
    text = following.write(opened.text, study=plan.study, name=name)
    study = parse_study(
        text,
        source="the next study",
        recorded=plan.sources,
        methods=plan.own_methods,
        checks_store=False,
    )
    planned = build_plan(study, recorded=plan.sources, resized=plan.bases.resized_models)
    assert planned.groups == plan.groups, "the next study has the groups of this one"
    assert following.trains or planned.experts.keys() <= plan.experts.keys(), "it trains nothing"
    return text


def _print_method(advice: MethodAdvice, *, console: Console) -> None:
    say(console, f"\n{advice.method}")
    for text in advice.left_out:
        _say(console, text)
    if advice.record is not None:
        for text in record_sentences(advice.record):
            _say(console, text)
    if advice.missing:
        _say(console, f"Nothing is ranked: {advice.missing}.")
    if advice.ranking is not None:
        _print_ranking(advice.ranking, console=console)
        for text in ranking_sentences(advice.ranking):
            _say(console, text)


def _print_ranking(ranking: Ranking, *, console: Console) -> None:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("setting", overflow="fold", max_width=MAX_SETTING_WIDTH)
    for name in ("loss [95 %]", "vs best", "chance", "new steps"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in ranking.candidates:
        table.add_row(
            f"{each.text}{' *' if each.is_beyond else ''}",
            interval_text(each),
            f"{each.against_best:+z.3f}",
            f"{each.chance:.0%}",
            f"{each.new_steps:,}",
        )
    _say(
        console,
        f"Best setting so far: {ranking.best}, measured loss {ranking.best_loss:.3f}. Of "
        f"{ranking.num_candidates:,} untried settings, those with the least predicted loss "
        "(chance: of less loss than the best so far):",
    )
    print_table(console, table)


def _print_steps(
    opened: OpenedStudy, *, steps: StepsAdvice, only_steps: bool, console: Console
) -> None:
    """Prints the advice on steps; a reason why there is none only where it was asked for."""
    if not (only_steps or steps.chosen or steps.entry is not None or steps.is_blind):
        return
    say(console, "\nSteps for each task")
    if steps.chosen:
        print_table(console, _steps_table(steps))
    for text in steps_sentences(steps):
        _say(console, text)
    if steps.entry is not None and not only_steps:
        say(console, "steps   " + command_line("advise", opened, "--steps", "-o next.yaml"))


def _steps_table(steps: StepsAdvice) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("merge", "setting"):
        table.add_column(name, overflow="fold", max_width=MAX_SETTING_WIDTH)
    for name in ("common steps", "gain on validation", "gain on test images [95 %]"):
        table.add_column(name, justify="right", overflow="fold")
    for each in steps.chosen:
        table.add_row(
            each.method,
            each.setting,
            range_text(each.common),
            f"{each.validation_gain:+z.3f}",
            gain_text(each.test_gain),
        )
    return table


def _print_next(
    opened: OpenedStudy,
    following: _Next | None,
    *,
    output: Path | None,
    name: str,
    console: Console,
) -> None:
    if following is None:
        if output is not None:
            say(console, f"\nnothing to test: {one_line(str(output))} is not written")
        return
    if output is None:
        options = f"{following.option}-o next.yaml"
        say(console, "\nnext    " + command_line("advise", opened, options))
        return
    say(console, f"\nwrote {one_line(str(output))}: study {name}, in the same groups, with")
    say(console, following.about)
    say(console, f"cost    {file_command_line('plan', output)}")
    say(console, f"run     {file_command_line('run', output)}")
    say(console, f"verdict {command_line('results', opened, '--pairs', name=name)}")


def _say(console: Console, text: str) -> None:
    say(console, textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False))


def _json(advice: MethodAdvice) -> dict[str, Any]:
    fields = asdict(advice)
    if advice.record is not None:
        fields["record"].pop("residuals")
        fields["record"]["is_supported"] = advice.record.is_supported
    return fields


def _finite(value: Any) -> Any:  # noqa: ANN401 any JSON value
    """Returns a value of JSON, which has no NaN and no infinity."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
