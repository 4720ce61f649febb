"""What each command does once its study is opened; returns the exit code."""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console

from orchestrator.aggregate import means_table, setting_means
from orchestrator.calibrating import (
    CALIBRATION_S,
    calibrate,
    calibration_request,
    keep_calibration,
)
from orchestrator.estimate import estimate, estimate_store
from orchestrator.finishing import report_page
from orchestrator.ledger import Ledger
from orchestrator.opened import OpenedStudy, open_study
from orchestrator.progress_view import duration
from orchestrator.results import experts_table, results_table
from orchestrator.sizes import Sizes
from orchestrator.study import Study
from orchestrator.study_folder import REPORT_FILE, plan_to_json
from orchestrator.study_runs import axis_views
from orchestrator.terminal import (
    base_lines,
    budget_lines,
    estimate_lines,
    print_experts,
    print_holes,
    print_plan,
    print_results,
    say,
    sharing_line,
)
from orchestrator.tracking.ui import UI_ENVIRONMENT, find_experiment, ui_command
from orchestrator.tracking.views import view_fragment

DONE, FAILED, INCOMPLETE, INTERRUPTED = 0, 1, 3, 130


def show_plan(
    opened: OpenedStudy, *, console: Console, as_json: bool, num_slots: int | None
) -> None:
    """Prints the plan of a study; starts nothing."""
    plan, ledger = opened.plan, opened.ledger
    slots = num_slots or slots_here(plan.study)
    sizes = Sizes.of(ledger)
    left = estimate(ledger, calibration=opened.calibration, models=sizes.models)
    store = estimate_store(ledger, sizes=sizes, num_slots=slots)
    lines = estimate_lines(left, store=store, num_slots=slots, budget=plan.study.budget)
    about_budget = list(budget_lines(plan, allowance=opened.allowance))
    if not as_json:
        print_plan(plan, ledger=ledger, lines=[*lines, *about_budget], console=console)
        return
    summary = {
        "counts": vars(ledger.counts()),
        "bases": base_lines(plan),
        "sharing": sharing_line(plan),
        "estimate": lines,
        "left": {
            "wall_s": left.wall_s(num_slots=slots),
            "gpu_hours": left.usage.gpu_hours,
            "cpu_hours": left.usage.cpu_hours,
            "usd": left.usage.usd(plan.study.budget),
            **vars(store),
        },
        "budget": about_budget,
        "warnings": plan.warnings,
    }
    json.dump({**plan_to_json(opened.plan), "summary": summary}, sys.stdout, indent=1)


def slots_here(study: Study) -> int:
    """Returns how many trials this machine's cores have room for; GPUs are not looked for."""
    return max(1, int((os.cpu_count() or 1) / study.resources.trial.cpu))


def calibrate_here(opened: OpenedStudy, *, console: Console) -> OpenedStudy:
    """Times the study's work on this machine and keeps that; returns the study opened anew.

    Raises:
        CalibrationError: Nothing could be timed.
    """
    request = calibration_request(opened.plan)
    seconds = CALIBRATION_S * len({base.model for base in request.bases.values()})
    say(console, f"calibrating on this machine, for {seconds:.0f} s at most")
    calibration = calibrate(
        request, seconds=seconds, progress=lambda text: say(console, f"  {text}")
    )
    missing = [key for key in request.wanted() if key not in calibration.speeds]
    for key in missing:
        say(console, f"  not timed, and left to other figures or a guess: {key}")
    keep_calibration(opened.folder, calibration)
    fresh = open_study(opened.plan.study, text=opened.text, recorded=opened.plan.sources)
    if fresh.calibration is None:
        given = "a GPU" if opened.plan.study.resources.trial.gpu else "no GPU"
        timed = calibration.device_name
        say(console, f"kept, and not used: this is {timed}, resources.trial gives {given}")
    return fresh


def print_end(opened: OpenedStudy, *, console: Console) -> int:
    """Prints results, holes and where to look; returns the exit code."""
    ledger = opened.ledger
    print_results(results_table(ledger), console=console)
    print_holes(ledger.holes(), console=console)
    for line in budget_lines(opened.plan, allowance=opened.allowance):
        say(console, line)
    for label, text in (
        ("report", opened.folder.location(REPORT_FILE)),
        ("rows", command_line("results", opened, "--format csv")),
        ("MLflow", command_line("ui", opened)),
    ):
        console.print(f"{label:7} {text}", soft_wrap=True, highlight=False)
    return _exit_code(ledger)


def command_line(verb: str, opened: OpenedStudy, *options: str) -> str:
    """Returns a command that can be pasted: the program as it was called, the store in full."""
    on_path = shutil.which("mergesweep") == str(Path(sys.argv[0]).resolve())
    program = "mergesweep" if on_path else sys.argv[0]
    name = opened.plan.study.name
    return " ".join([program, verb, name, "--store", shlex.quote(opened.store_url), *options])


def _exit_code(ledger: Ledger) -> int:
    kinds = {hole.kind for hole in ledger.holes()}
    if not kinds:
        return DONE
    return FAILED if "failed" in kinds else INCOMPLETE


def show_status(opened: OpenedStudy, *, console: Console) -> int:
    """Prints how far a study is, and what is missing."""
    counts = opened.ledger.counts()
    console.print(
        f"study {opened.plan.study.name}: experts {counts.num_experts_done} of "
        f"{counts.num_experts}, merge jobs {counts.num_merges_done} of {counts.num_merges}",
        highlight=False,
    )
    holes = opened.ledger.holes()
    if not holes:
        console.print("finished")
        return DONE
    models = Sizes.of(opened.ledger).models
    left = estimate(opened.ledger, calibration=opened.calibration, models=models)
    slots = slots_here(opened.plan.study)
    console.print(f"left: about {duration(left.wall_s(num_slots=slots))} on this machine")
    print_holes(holes, console=console)
    for line in budget_lines(opened.plan, allowance=opened.allowance):
        say(console, line)
    return _exit_code(opened.ledger)


def show_results(
    opened: OpenedStudy, *, console: Console, output_format: str, experts: bool, means: bool
) -> int:
    """Prints results as far as they are: on the terminal means, else every row or the means."""
    table = (experts_table if experts else results_table)(opened.ledger)
    if output_format == "table":
        if experts:
            print_experts(table, console=console)
        else:
            print_results(table, console=console)
    else:
        rows = means_table(setting_means(table)) if means else table
        sys.stdout.buffer.write(_encoded(rows, output_format=output_format))
    return _exit_code(opened.ledger)


def _encoded(table: pa.Table, *, output_format: str) -> bytes:
    if output_format == "json":
        return (json.dumps(table.to_pylist(), indent=1) + "\n").encode()
    buffer = io.BytesIO()
    if output_format == "csv":
        pyarrow.csv.write_csv(table, buffer)
    else:
        pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def write_report(opened: OpenedStudy, *, path: Path, console: Console) -> int:
    """Writes the report as one HTML file."""
    path.write_text(report_page(opened), encoding="utf-8")
    console.print(f"wrote {path}", highlight=False)
    return _exit_code(opened.ledger)


def serve_ui(opened: OpenedStudy, *, port: int, console: Console) -> int:
    """Serves MLflow's pages until Ctrl-C; of a running server only the address is printed."""
    uri = opened.tracking_uri
    is_running = uri.startswith(("http://", "https://"))
    address = uri.rstrip("/") if is_running else f"http://127.0.0.1:{port}"
    for line in _page_links(opened, address=address):
        console.print(line, soft_wrap=True, highlight=False)
    if is_running:
        return DONE
    console.print("Ctrl-C ends")
    command = ui_command(uri, port=port)
    server = subprocess.Popen(command, env={**os.environ, **UI_ENVIRONMENT})  # noqa: S603 our own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends itself; we wait for it
    return server.wait()


def _page_links(opened: OpenedStudy, *, address: str) -> Iterator[str]:
    study = opened.plan.study.name
    experiment = find_experiment(opened.tracking_uri, study=study)
    if experiment is None:
        yield f"{address} (no runs of {study} there yet)"
        return
    runs = f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    yield f"all runs of {study}: {runs}"
    for view in axis_views(opened.plan):
        fragment = view_fragment(view.axis, experiment_id=experiment)
        yield f"accuracy against {view.axis}, by method: {address}/{fragment}"
