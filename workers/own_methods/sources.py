"""Finds users' methods in files and installed packages, without running their code."""

import importlib.metadata
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint

GROUP = "mergesweep.methods"
"""The group of entry points under which a package offers methods."""
MAX_FILE_BYTES = 1 << 20
"""The largest file of a method. Its source is stored, and read by every worker."""
FORMS = "./my_method.py:MyMethod or package:my_method"
"""The forms of a user's method in a study file."""
_IN_FILE = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_PACKAGE = "package:"


class OwnMethodError(ValueError):
    """A user's method cannot be found or loaded; the message says why, and gives a remedy."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A user's method, as a study names it."""

    name: str
    """The name of the object in the file, or of the package's entry point."""
    path: str | None
    """The file; None for a method of a package."""


def parse_reference(method: str) -> Reference | None:
    """Returns the parts of `./my_method.py:MyMethod` or `package:my_method`; None for others."""
    if method.startswith(_PACKAGE):
        return Reference(name=method.removeprefix(_PACKAGE), path=None)
    found = _IN_FILE.fullmatch(method)
    return None if found is None else Reference(name=found["name"], path=found["path"])


def method_name(method: str) -> str:
    """Returns the name of a method in tables: without the path of its file."""
    reference = parse_reference(method)
    return method if reference is None else reference.name


def packaged_methods() -> dict[str, EntryPoint]:
    """Returns the methods of installed packages by name.

    Raises:
        OwnMethodError: Two distributions offer a method of one name.
    """
    found: dict[str, EntryPoint] = {}
    for each in importlib.metadata.entry_points(group=GROUP):
        other = found.setdefault(each.name, each)
        if other.value != each.value or packaged_source(other) != packaged_source(each):
            raise OwnMethodError(
                f"{packaged_source(other)} and {packaged_source(each)} both offer a method "
                f"{each.name!r}; uninstall one of them"
            )
    return found


def packaged_source(entry_point: EntryPoint) -> str:
    """Returns the distribution of an entry point with its version: `my-methods==1.2`."""
    distribution = entry_point.dist
    assert distribution is not None, "entry points of installed packages have a distribution"
    return f"{distribution.name}=={distribution.version}"
