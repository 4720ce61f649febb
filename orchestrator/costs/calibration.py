"""Times samples of a study's work on this machine and stores the speeds.

The driver never loads torch, so a process of its own, `workers.calibrate`, runs the samples and
prints the speeds. `calibration.json` in the study's folder keeps one calibration per machine and
device.
"""

import contextlib
import json
import platform
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from eval.tasks import Task
from orchestrator.plan.plan import Plan
from orchestrator.record.folder import CALIBRATION_FILE, StudyFolder
from orchestrator.study.schema import Study
from workers.artifacts.checksummed_json import DamagedJsonError, dump_checksummed, parse_checksummed
from workers.calibrate.request import CalibrationRequest, ImageSample
from workers.calibrate.speeds import (
    Calibration,
    Speed,
    calibration_of,
    merge_key,
    parse_speeds,
    train_key,
)
from workers.forked import module_command
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec

if TYPE_CHECKING:
    from workers.specs.bases import BaseSpec

CALIBRATION_S = 60.0
"""Longest time of a calibration per model, after torch is loaded. Kinds of work that it does not
reach stay estimates."""
IMPORTS_S = 300.0
"""Longest time for loading torch."""
NUM_LAST_LINES = 20
"""Lines of stderr in the error for a process that measured nothing."""


class CalibrationError(Exception):
    """The calibrating process measured nothing; the message has the end of its stderr."""


def calibration_request(plan: Plan) -> CalibrationRequest:
    """Returns a request with one sample of each kind of job in a plan.

    As the time may be too short for all samples, the first kind of step of each model comes before
    the second kind of any model, and methods that read images, which take long, come last. A method
    is timed on the group size that most of its merges have.
    """
    models = {base_id: base.model for base_id, base in plan.bases.by_id.items()}
    size = plan.study.backbone.image_size
    steps: dict[str, ExpertSpec] = {}
    for spec in (trial.longest for trial in plan.trials if trial.longest.given is None):
        steps.setdefault(train_key(models[spec.base_id], image_size=size, spec=spec), spec)
    pretrained: dict[str, BaseSpec] = {}
    for training in (*plan.bases.trainings, *plan.bases.multi_task):
        key = train_key(models[training.base_id], image_size=size, spec=training.recipe)
        if key not in steps:
            pretrained.setdefault(key, training.longest)
    merges = sorted(_distinct_merges(plan, models=models), key=_reads_images)
    experts = [*steps.values(), *(merge.experts[0] for merge in merges)]
    data_ids = {each.data_id for each in experts}
    data_ids |= {each.pretrain.data_ids[0] for each in pretrained.values() if each.pretrain}
    base_ids = {each.base_id for each in experts}
    resources = plan.study.resources
    return CalibrationRequest(
        bases={each: plan.bases.by_id[each] for each in sorted(base_ids)},
        data={
            data.id: _image_sample(data, task=plan.sources[data.task].task)
            for data in plan.datasets
            if data.id in data_ids
        },
        experts=tuple(_in_turn(steps.values(), models=models)),
        pretrained=tuple(pretrained.values()),
        merges=tuple(merges),
        train_cpus=resources.trial.cpu,
        merge_cpus=resources.merge.cpu,
    )


def _image_sample(data: DataSpec, *, task: Task) -> ImageSample:
    return ImageSample(spec=data, channels=task.channels, num_classes=task.num_classes)


def _in_turn(experts: Iterable[ExpertSpec], *, models: Mapping[str, str]) -> Iterator[ExpertSpec]:
    """Yields the first expert of each model, then the second of each, and so on."""
    by_model: dict[str, list[ExpertSpec]] = {}
    for spec in experts:
        by_model.setdefault(models[spec.base_id], []).append(spec)
    for turn in zip_longest(*by_model.values()):
        yield from (spec for spec in turn if spec is not None)


def _distinct_merges(plan: Plan, *, models: Mapping[str, str]) -> Iterator[MergeSpec]:
    kinds: dict[str, list[MergeSpec]] = {}
    for spec in plan.merges.values():
        if spec.own_method is not None:  # the samples' process has no store with the user's code
            continue
        key = merge_key(models[spec.base_id], image_size=plan.study.backbone.image_size, merge=spec)
        kinds.setdefault(key, []).append(spec)
    for alike in kinds.values():
        counts = Counter(len(spec.merged) for spec in alike)
        size = max(counts, key=lambda each: (counts[each], each))
        typical = next(spec.first_tried for spec in alike if len(spec.merged) == size)
        yield replace(typical, experts=typical.merged, pool=())


def _reads_images(spec: MergeSpec) -> bool:
    return spec.card.data_use != "none" or spec.surgery is not None


def calibrate(
    request: CalibrationRequest, *, seconds: float, progress: Callable[[str], None]
) -> Calibration:
    """Times samples on this machine's GPU, or on its CPU if it has none.

    Args:
        request: The samples.
        seconds: Time limit. The speeds that are known by then are returned.
        progress: Is called with a line of text for each speed.

    Raises:
        CalibrationError: Nothing was measured within the limit.
    """
    with subprocess.Popen(  # noqa: S603 our own
        module_command("workers.calibrate"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # A thread reads stderr, as warnings that fill the pipe would block the process.
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        reader.start()
        try:
            device, speeds = _read_speeds(
                process, request=request, seconds=seconds, progress=progress
            )
        finally:
            process.kill()
            process.wait()
            reader.join()
    if not speeds:
        last_lines = "".join(errors[-NUM_LAST_LINES:])
        raise CalibrationError(
            f"no speed was measured within {seconds:.0f} s; the process ended with:\n{last_lines}"
        )
    return calibration_of(device, speeds=speeds)


def _read_speeds(
    process: "subprocess.Popen[str]",
    *,
    request: CalibrationRequest,
    seconds: float,
    progress: Callable[[str], None],
) -> tuple[dict[str, Any], list[Speed]]:
    """Returns the device and the speeds that are known when the process ends or is killed."""
    assert process.stdin is not None
    assert process.stdout is not None
    device: dict[str, Any] = {}
    speeds: list[Speed] = []
    timer = _kill_after(IMPORTS_S, process=process)
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(request.to_json())
            process.stdin.close()
        for line in process.stdout:
            if not device:
                device = json.loads(line)
                timer.cancel()
                timer = _kill_after(seconds, process=process)
                continue
            for speed in parse_speeds([line]):
                speeds.append(speed)
                progress(f"{speed.seconds:.3g} s: {speed.what}")
    finally:
        timer.cancel()
    return device, speeds


def _kill_after(seconds: float, *, process: "subprocess.Popen[str]") -> threading.Timer:
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    return timer


def read_calibrations(folder: StudyFolder) -> list[Calibration]:
    """Returns the study's calibrations, one per machine and device; none if the file is damaged."""
    content = folder.read_bytes(CALIBRATION_FILE)
    try:
        fields = parse_checksummed(content) if content else {}
        return [Calibration.from_json(each) for each in fields.get("calibrations", [])]
    except (DamagedJsonError, TypeError, KeyError):
        return []  # by another release, or damaged: the next calibration replaces the file


def store_calibration(folder: StudyFolder, calibration: Calibration) -> None:
    """Stores a calibration; replaces an earlier one of the same machine and device."""
    place = calibration.machine, calibration.device_name
    others = [
        each for each in read_calibrations(folder) if (each.machine, each.device_name) != place
    ]
    kept = [each.to_json() for each in (*others, calibration)]
    folder.write_bytes(
        CALIBRATION_FILE, dump_checksummed({"study": folder.name, "calibrations": kept})
    )


def fitting_calibration(calibrations: Iterable[Calibration], *, study: Study) -> Calibration | None:
    """Returns the calibration for a study's workers, None if no calibration fits.

    Only calibrations of a GPU fit trials that get one, and only those of a CPU fit other trials.
    Prefers this machine, then the newest.
    """
    device = "cuda" if study.resources.trial.gpu else "cpu"
    fitting = [each for each in calibrations if each.device == device]
    return max(fitting, key=lambda each: (each.machine == platform.node(), each.at_s), default=None)
