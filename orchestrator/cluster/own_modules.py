"""The folders in which Ray's workers look for modules."""

from pathlib import Path
from typing import Any

from ray.job_config import JobConfig

_OURS = Path(__file__).resolve().parents[2]


class OwnModulesConfig(JobConfig):
    """A job whose workers do not look for modules in the driver's current folder.

    Ray puts that folder before everything else, so that a user's `merge.py` or `workers.py` in it
    would run in every worker in place of our packages. Ray has no public option for this. A folder
    that has our packages stays: without an installation, workers find them there.
    """

    def _serialize(self) -> Any:  # noqa: ANN401 bytes, which Ray declares as a text
        here = Path.cwd()
        if here.resolve() != _OURS:
            paths = self._py_driver_sys_path
            self._py_driver_sys_path = [each for each in paths if Path(each) != here]
        return super()._serialize()
