"""What a node of a cluster answers about itself; sent to it as code, with only Python assumed.

A node may lack every package of ours, so nothing but the standard library is imported at its top,
and all that can go wrong is answered in words.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence


def probe_node(
    *, packages: Sequence[str], paths: Mapping[str, str], store_url: str, python: str
) -> list[str]:
    """Returns what a worker on this node would lack.

    Args:
        packages: Import names that must be found.
        paths: Files and directories that must exist, by the field that names each.
        store_url: The store, in which an object is written, read and deleted.
        python: The minor version that must run, such as 3.11.
    """
    problems = []
    here = ".".join(map(str, sys.version_info[:2]))
    if here != python:
        problems.append(f"Python is {here} and not {python}")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        problems.append(f"not installed: {', '.join(missing)}")
    absent = [f"{field} {path}" for field, path in paths.items() if not os.path.exists(path)]  # noqa: PTH110 no Path needed
    if absent:
        problems.append(f"not there: {', '.join(absent)}")
    if not missing:
        problems += _store_problems(store_url)
    return problems


def _store_problems(store_url: str) -> list[str]:
    from workers.store.opening import check_store  # noqa: PLC0415 it may be missing
    from workers.store.protocol import StoreError  # noqa: PLC0415 as above

    try:
        check_store(store_url)
    except StoreError as error:
        return [f"the store cannot be used: {error}"]
    return []
