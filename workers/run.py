"""Runs one planned job in this process: `python -m workers.run <id> --store URL`.

The command reproduces a failure of a cluster in a shell, with the same specification and store and
with the traceback in the terminal.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from workers.planned import NotPlannedError, Planned, find_planned
from workers.specs.bases import BaseJob, BaseSpec
from workers.specs.data import DataJob
from workers.specs.head import HeadJob, ZeroShotSpec
from workers.specs.merge import MergeSpec
from workers.specs.training import Pretraining, Training, TrialSpec
from workers.store.opening import open_store
from workers.store.protocol import StoreError
from workers.without_compiler import without_compiler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.artifacts.manifests import Manifest
    from workers.process import Worker

REPORT_EVERY_S = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Finds the job's id in the plans of the store's studies and runs the job.

    Returns:
        The exit code: 0 if the artifact is committed, 1 if an input is missing, 2 if the id or the
        store is wrong. Other errors are raised, because the command is there to show their
        traceback.
    """
    options = _parser().parse_args(arguments)
    try:
        planned = find_planned(open_store(options.store), options.id)
    except (NotPlannedError, StoreError) as error:
        _say(f"error: {error}")
        return 2
    return _run(planned, options=options)


def _run(planned: Planned, *, options: argparse.Namespace) -> int:
    # Imported here because torch takes seconds to load: a wrong id is reported at once.
    with without_compiler():
        from workers.process import Worker  # noqa: PLC0415
    from workers.merging.choice import NotChosenError  # noqa: PLC0415
    from workers.workspace import MissingArtifactError  # noqa: PLC0415

    worker = Worker(options.store, num_cpus=options.cpus)
    try:
        _start(planned, worker=worker, checkpoint=options.checkpoint)
    except MissingArtifactError as error:
        _say(f"error: {error}")
        _say("run that id with this command first, or run the study that plans it")
        return 1
    except NotChosenError as error:
        _say(f"error: {error}")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers.run",
        description="Runs one planned trial, merge job or preparation in this process. A job whose "
        "artifact is already committed runs again, and the store keeps the first artifact.",
    )
    parser.add_argument(
        "id", help="id of a trial, an expert, a merge, a base, a zero-shot head or a task's images"
    )
    parser.add_argument("--store", required=True, metavar="URL", help="the study's store")
    parser.add_argument(
        "--cpus",
        type=int,
        default=1,
        help="number of threads; the last bits of results may depend on it",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="file of the base, expert or text tower, if the study reads it from a file",
    )
    return parser


def _start(planned: Planned, *, worker: Worker, checkpoint: str | None) -> None:
    match planned:
        case TrialSpec() if planned.longest.given is not None:
            _say(f"expert of {planned.longest.task} from its file")
            given = replace(planned.longest.given, path=checkpoint)
            longest = replace(planned.longest, given=given)
            _run_training(replace(planned, longest=longest), worker=worker)
        case TrialSpec():
            _say(f"trial on {planned.longest.task}: {planned.longest}")
            _run_training(planned, worker=worker)
        case Pretraining():
            _say(f"pretraining on {', '.join(planned.recipe.tasks)}: {planned.longest}")
            _run_training(planned, worker=worker)
        case MergeSpec():
            _say(f"merge by {planned.method} of {', '.join(e.task for e in planned.experts)}")
            _show(worker.run_merge(planned))
        case BaseSpec():
            _show(worker.prepare_base(BaseJob(spec=planned, path=checkpoint)))
        case DataJob():
            _prepare_data(planned, worker=worker)
        case ZeroShotSpec():
            _show(worker.prepare_head(HeadJob(spec=planned, path=checkpoint)))


def _run_training(spec: Training, *, worker: Worker) -> None:
    for progress in worker.run_training(spec, report_every_s=REPORT_EVERY_S):
        loss = "none" if progress.loss is None else f"{progress.loss:.4f}"
        _say(f"step {progress.step} of {spec.num_steps}, training loss {loss}")
        for manifest in progress.committed:
            _show(manifest)


def _prepare_data(job: DataJob, *, worker: Worker) -> None:
    for progress in worker.prepare_data(job):
        _say(
            f"{progress.task}: {progress.num_done} of {progress.num_images} images, "
            f"{progress.images_per_s:.0f} per second"
        )
        if progress.committed is not None:
            _show(progress.committed)


def _show(manifest: Manifest) -> None:
    seconds = sum(manifest.seconds.values())
    _say(f"{manifest.kind} {manifest.id} is committed: {manifest.outcome}, {seconds:.1f} s")
    for name, value in manifest.metrics.items():
        if name != "train_curve":
            _say(f"  {name}: {value}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 the command's output


if __name__ == "__main__":
    raise SystemExit(main())
