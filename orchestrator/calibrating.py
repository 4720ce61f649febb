"""Times samples of a study's work on this machine, in a process of its own, and keeps the result.

A driver never loads torch: `workers.calibrate` runs beside it and prints what it measures. The
study's folder keeps one calibration a machine and device, in `calibration.json`.
"""

import contextlib
import json
import platform
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from merge.cards import CARDS
from orchestrator.plan import Plan
from orchestrator.study import Study
from orchestrator.study_folder import CALIBRATION_FILE, StudyFolder
from workers.calibration import Calibration, CalibrationRequest, Speed, speeds_of
from workers.sealed import SealError, seal, unseal
from workers.specs import ExpertSpec, MergeSpec

CALIBRATION_S = 60.0
"""How long a calibration may take once torch is loaded; what it did not come to stays a guess."""
IMPORTS_S = 300.0
"""How long loading torch may take."""

NUM_LAST_LINES = 20
"""Of what a process that measured nothing has said."""


class CalibrationError(Exception):
    """The calibrating process measured nothing; the message has its last words."""


def calibration_request(plan: Plan) -> CalibrationRequest:
    """Returns one of each kind of job in a plan: methods that read images last, as they take long.

    A method is timed on a group of the size that most of its merges have.
    """
    data = {spec.id: spec for spec in plan.datasets}
    experts: dict[object, ExpertSpec] = {}
    for trial in plan.trials:
        spec = trial.longest
        image_size = data[spec.data_id].image_size
        experts.setdefault((spec.base_id, image_size, spec.batch_size, spec.optimizer), spec)
    merges = sorted(_distinct_merges(plan.merges.values()), key=_reads_images)
    needed = {each.data_id for each in experts.values()}
    needed |= {spec.experts[0].data_id for spec in merges}
    resources = plan.study.resources
    return CalibrationRequest(
        bases={plan.base.spec.id: plan.base.spec},
        data={each: data[each] for each in sorted(needed)},
        experts=tuple(experts.values()),
        merges=tuple(merges),
        train_cpus=resources.trial.cpu,
        merge_cpus=resources.merge.cpu,
    )


def _distinct_merges(merges: Iterable[MergeSpec]) -> Iterator[MergeSpec]:
    kinds: dict[object, list[MergeSpec]] = {}
    for spec in merges:
        params = json.dumps(dict(spec.params), sort_keys=True)
        settings = spec.batch_norm, spec.recalibration_images, spec.surgery
        kind = spec.base_id, spec.method, params, *settings
        kinds.setdefault(kind, []).append(spec)
    for alike in kinds.values():
        counts = Counter(len(spec.experts) for spec in alike)
        size = max(counts, key=lambda each: (counts[each], each))
        yield next(spec for spec in alike if len(spec.experts) == size)


def _reads_images(spec: MergeSpec) -> bool:
    return CARDS[spec.method].data_use != "none" or spec.surgery is not None


def calibrate(
    request: CalibrationRequest, *, seconds: float, progress: Callable[[str], None]
) -> Calibration:
    """Times what is asked for on this machine's device, its GPU where there is one.

    Args:
        request: What to time.
        seconds: Ends it after so long, with what is known by then.
        progress: Is told each speed.

    Raises:
        CalibrationError: Nothing was measured.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "workers.calibrate"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # Read beside: its warnings would fill the pipe and stop it.
        errors: list[str] = []
        listener = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        listener.start()
        try:
            device, speeds = _listen(process, request=request, seconds=seconds, progress=progress)
        finally:
            process.kill()
            process.wait()
            listener.join()
    if not speeds:
        said = "".join(errors[-NUM_LAST_LINES:])
        raise CalibrationError(f"no speed was known after {seconds:.0f} s\n{said}")
    return Calibration(
        **device, at_s=time.time(), speeds={speed.what: speed.seconds for speed in speeds}
    )


def _listen(
    process: "subprocess.Popen[str]",
    *,
    request: CalibrationRequest,
    seconds: float,
    progress: Callable[[str], None],
) -> tuple[dict[str, Any], list[Speed]]:
    """Returns the device and its speeds, as far as they are known when the time is up."""
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
            for speed in speeds_of([line]):
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
    """Returns the study's calibrations, one a machine and device; none if the file is damaged."""
    content = folder.read_bytes(CALIBRATION_FILE)
    try:
        fields = unseal(content) if content else {}
        return [Calibration.from_json(each) for each in fields.get("calibrations", [])]
    except (SealError, TypeError, KeyError):
        return []  # made by another release, or damaged: the next calibration writes it anew


def keep_calibration(folder: StudyFolder, calibration: Calibration) -> None:
    """Writes a calibration down, in place of an earlier one of the same machine and device."""
    place = calibration.machine, calibration.device_name
    others = [
        each for each in read_calibrations(folder) if (each.machine, each.device_name) != place
    ]
    kept = [each.to_json() for each in (*others, calibration)]
    folder.write_bytes(CALIBRATION_FILE, seal({"study": folder.name, "calibrations": kept}))


def fitting_calibration(calibrations: Iterable[Calibration], *, study: Study) -> Calibration | None:
    """Returns the calibration for the study's workers: on a GPU if they get one, of this machine.

    Of those that are equal in that the newest; one of another kind of device is never taken.
    """
    device = "cuda" if study.resources.trial.gpu else "cpu"
    fitting = [each for each in calibrations if each.device == device]
    return max(fitting, key=lambda each: (each.machine == platform.node(), each.at_s), default=None)
