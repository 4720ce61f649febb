"""Reads and checks the environment variables that decide which Ray a run uses.

Every function takes the environment and raises `VariableError` for a value that cannot be used.
"""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

from orchestrator.environment.problems import (
    Environment,
    VariableError,
    VariableProblem,
    check_all,
)
from orchestrator.environment.ray_directory import check_temporary_directory, ray_directory

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""The address of the Ray head that a run joins; a Ray of the run's own without it."""
MAX_RESOURCES_VARIABLE = "MERGESWEEP_MAX_RESOURCES"
"""An environment variable on the head of a cluster that grows by itself: the size that it may grow
to, such as `{"CPU": 160, "GPU": 20}`. Ray's autoscaler does not tell a driver."""
AUTH_MODE_VARIABLE = "RAY_AUTH_MODE"
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"  # noqa: S105 a name
TOKEN_PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"  # noqa: S105 a name

_OWN = "local"
_RUNNING_HERE = "auto"
_HOST_AND_PORT = re.compile(r"(?P<host>[^\s:/\[\]@]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
_MAX_PORT = 65535
ADDRESS_REMEDY = (
    "set it to host:port of a Ray head, such as 10.0.0.1:6379, or `unset RAY_ADDRESS` to run on "
    "this machine alone"
)
_COUNTED = ("CPU", "GPU")
"""Ray's names of the resources that slots are made of."""
_NODE_ID_VARIABLE = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"
_NODE_ID = re.compile(r"[0-9a-f]{56}")
_SETTING = re.compile(r"RAY_[a-z]\w*")
"""Ray's name of a setting is in lower case, after the prefix of all of its variables."""
_AUTH_MODES = ("token", "disabled")


def check_ray_variables(environment: Environment) -> None:
    """Checks every variable that decides which Ray a run uses.

    Raises:
        VariableError: Some variables cannot be used; the error lists every problem.
    """
    checks = (ray_address, max_resources, auth_mode, _token_file, _node_id, _settings)
    check_all(checks, environment)
    is_own = ray_address(environment) is None
    folders = (check_temporary_directory, *((ray_directory,) if is_own else ()))
    check_all(folders, environment)


def ray_address(environment: Environment) -> str | None:
    """Returns the address of the Ray to join: `host:port`, or `auto` for one on this machine.

    Returns:
        None if the run starts a Ray of its own.
    """
    text = environment.get(ADDRESS_VARIABLE, "")
    address = text.strip()
    if address in ("", _OWN):
        return None
    if address == _RUNNING_HERE or _is_host_and_port(address):
        return address
    scheme, has_scheme, _ = address.partition("://")
    if has_scheme and scheme in ("http", "https"):
        fault = "the address of a dashboard, which `mergesweep submit --address` takes"
    elif has_scheme and scheme == "ray":
        fault = "an address of Ray Client, which cannot run a study"
    else:
        fault = "which is not the address of a Ray head"
    raise _problem(ADDRESS_VARIABLE, text, fault=fault, remedy=ADDRESS_REMEDY)


def max_resources(environment: Environment) -> dict[str, float]:
    """Returns the resources that the cluster may grow to, by Ray's names; empty without limit."""
    text = environment.get(MAX_RESOURCES_VARIABLE, "")
    if not text.strip():
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    fault = "which is not a JSON object of numbers"
    if isinstance(values, dict) and all(_is_amount(value) for value in values.values()):
        misspelt = [name for name in values if name not in _COUNTED and name.upper() in _COUNTED]
        if not misspelt:
            return {name: float(value) for name, value in values.items()}
        fault = f"where {misspelt[0]} must be written {misspelt[0].upper()}"
    remedy = (
        'set it to the largest size of the cluster, such as \'{"CPU": 160, "GPU": 20}\', or '
        f"`unset {MAX_RESOURCES_VARIABLE}` if the cluster does not grow"
    )
    raise _problem(MAX_RESOURCES_VARIABLE, text, fault=fault, remedy=remedy)


def auth_mode(environment: Environment) -> str | None:
    """Returns whether Ray asks for tokens: `token`, `disabled`, or None if nothing says so."""
    text = environment.get(AUTH_MODE_VARIABLE)
    if text is None or text.lower() in _AUTH_MODES:
        return text and text.lower()
    remedy = f"set it to {' or '.join(_AUTH_MODES)}, or `unset {AUTH_MODE_VARIABLE}`"
    fault = "which is not a mode of Ray's authentication"
    raise _problem(AUTH_MODE_VARIABLE, text, fault=fault, remedy=remedy)


def has_token(environment: Environment) -> bool:
    """Returns whether the environment gives Ray a token, itself or in a file."""
    return bool(environment.get(TOKEN_VARIABLE) or environment.get(TOKEN_PATH_VARIABLE))


def _token_file(environment: Environment) -> None:
    """Checks that the token's file, if Ray would read it, can be read and is not empty."""
    text = environment.get(TOKEN_PATH_VARIABLE, "")
    if not text or environment.get(TOKEN_VARIABLE):
        return
    try:
        fault = "which is an empty file" if not Path(text).read_bytes().strip() else None
    except OSError as error:
        fault = f"a file that cannot be read ({error.strerror})"
    if fault is not None:
        remedy = (
            f"set it to a file with the cluster's token, set {TOKEN_VARIABLE} to the token itself, "
            f"or `unset {TOKEN_PATH_VARIABLE}`"
        )
        raise _problem(TOKEN_PATH_VARIABLE, text, fault=fault, remedy=remedy)


def _node_id(environment: Environment) -> None:
    """Checks the id that Ray's own tests give a node: with another text, Ray never starts."""
    text = environment.get(_NODE_ID_VARIABLE, "")
    if text and not _NODE_ID.fullmatch(text):
        fault = "which is no id of a node, so that Ray would not start"
        remedy = f"`unset {_NODE_ID_VARIABLE}`: only tests of Ray itself set it"
        raise _problem(_NODE_ID_VARIABLE, text, fault=fault, remedy=remedy)


def _settings(environment: Environment) -> None:
    """Checks Ray's own settings, such as `RAY_health_check_period_ms`, by loading Ray with them.

    Ray reads them in C++ when it is loaded, and a value of another type ends the process with a
    segmentation fault. Without any setting nothing is loaded.
    """
    names = [name for name in environment if _SETTING.fullmatch(name)]
    if not names or _loads_ray(environment):
        return
    without = {name: text for name, text in environment.items() if name not in names}
    raise VariableError(
        VariableProblem(
            name=name,
            value=environment[name],
            fault="with which Ray ends as soon as it is loaded",
            remedy=f"set it to a value of its type, such as a number, or `unset {name}`",
        )
        for name in names
        if not _loads_ray({**without, name: environment[name]})
    )


def _loads_ray(environment: Environment) -> bool:
    command = [sys.executable, "-c", "import ray"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)  # noqa: S603 our own
    return done.returncode >= 0


def _is_host_and_port(address: str) -> bool:
    match = _HOST_AND_PORT.fullmatch(address)
    return match is not None and 0 < int(match["port"]) <= _MAX_PORT


def _is_amount(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0  # type: ignore[arg-type, operator]


def _problem(name: str, value: str, *, fault: str, remedy: str) -> VariableError:
    return VariableError([VariableProblem(name=name, value=value, fault=fault, remedy=remedy)])
