"""Checks the node on which it runs. It is sent there as code, and needs nothing but Python.

A node may lack all of our packages, so the top of the module imports only the standard library,
and problems are returned as text.
"""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence


def probe_node(
    *,
    packages: Sequence[str],
    paths: Mapping[str, str],
    store_url: str,
    python: str,
    methods: Mapping[str, str],
) -> list[str]:
    """Returns the problems that a worker on this node would have, a line each.

    Args:
        packages: Import names that must be found.
        paths: Files and directories that must exist, by the field with each.
        store_url: The store; the probe writes, reads and deletes an object in it.
        python: The required minor version, such as 3.11.
        methods: The distribution and version that must offer each users' method, by its name.
    """
    problems = []
    here = ".".join(map(str, sys.version_info[:2]))
    if here != python:
        problems.append(f"it has Python {here}, but the head has {python}")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        problems.append(f"not installed: {', '.join(missing)}")
    problems += _method_problems(methods)
    absent = [f"{field} {path}" for field, path in paths.items() if not os.path.exists(path)]  # noqa: PTH110 shorter
    if absent:
        problems.append(f"not there: {', '.join(absent)}")
    if not missing:
        problems += _store_problems(store_url)
    return problems


def _method_problems(methods: Mapping[str, str]) -> list[str]:
    problems = []
    for name, source in methods.items():
        offered = importlib.metadata.entry_points(group="mergesweep.methods", name=name)
        found = [f"{each.dist.name}=={each.dist.version}" for each in offered if each.dist]
        if source not in found:
            has = f"it has that of {', '.join(found)}" if found else "it has none of this name"
            problems.append(f"the method package:{name} of {source} is not installed; {has}")
    return problems


def _store_problems(store_url: str) -> list[str]:
    from workers.store.opening import check_store  # noqa: PLC0415 it may be missing
    from workers.store.protocol import StoreError  # noqa: PLC0415 as above

    try:
        check_store(store_url)
    except StoreError as error:
        return [f"the store cannot be used: {error}"]
    return []
