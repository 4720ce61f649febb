"""Content-addressed ids: the same specification has the same id, on every machine and for good.

An id is the hash of a canonical JSON text. What JSON cannot say exactly is refused rather than
turned into a string: a silent `str()` fallback would give one specification several ids (an object
address in a repr) or several specifications one id.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.digests import sha256_of_bytes

VERSIONS: dict[str, int] = {"base": 2, "data": 2, "head": 1, "expert": 2, "merge": 4}
"""Versions of the kinds of artifacts; raised when the meaning of a kind's specification changes."""

# 64 bits: at 100,000 artifacts the odds of any collision are 3e-10.
_ID_LENGTH = 16


class UnhashableSpecError(TypeError):
    """A value has no exact JSON form; the message names its path, such as `optimizer.lr`."""


def canonical_json(value: object) -> str:
    """Returns the one JSON text of a value: sorted keys, no spaces, ASCII only.

    An int and a float of the same value are different texts (`1` and `1.0`), as in the Python
    they came from: whoever makes a specification fixes the type of each field. Tuples are lists.

    Args:
        value: Dicts with str keys, lists, tuples, str, bool, int, finite float and None, nested.
            A frozen dataclass goes through `dataclasses.asdict` first.

    Raises:
        UnhashableSpecError: Another type, a key that is not a str, or a NaN or infinite float.
    """
    return json.dumps(plain_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain_json(value: object, *, path: str = "") -> Any:  # noqa: ANN401 any JSON value
    """Returns a value as plain dicts, lists and scalars, or refuses what is not exact in JSON.

    Args:
        value: See `canonical_json`.
        path: Where the value stands in what surrounds it; only messages use it.

    Raises:
        UnhashableSpecError: See `canonical_json`.
    """
    if isinstance(value, Mapping):
        return {
            _key(key, path): plain_json(item, path=_at(path, key)) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain_json(item, path=f"{path}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return _finite(value, path)
    raise UnhashableSpecError(
        f"{path or 'the value'} is {value!r} of type {type(value).__name__}; only dict, list, "
        "tuple, str, bool, int, float and None have an exact JSON form"
    )


def content_id(
    kind: str, *, version: int, spec: Mapping[str, Any], inputs: Sequence[str] = ()
) -> str:
    """Returns the id of what a specification produces: 16 hexadecimal digits.

    Args:
        kind: What is produced, such as `expert`.
        version: The meaning of the kind; bumped when equal specifications begin to give another
            result.
        spec: All that defines the result and nothing else: no resources, URLs or names.
        inputs: The ids of the artifacts consumed. Their order counts.

    Raises:
        UnhashableSpecError: See `canonical_json`; also a str in place of a list of inputs.
    """
    if isinstance(inputs, str):
        raise UnhashableSpecError(f"inputs is the str {inputs!r}; pass a list of ids")
    identity = {"kind": kind, "version": version, "spec": spec, "inputs": list(inputs)}
    return sha256_of_bytes(canonical_json(identity).encode())[:_ID_LENGTH]


def _key(key: object, path: str) -> str:
    if isinstance(key, str):
        return key
    raise UnhashableSpecError(
        f"{path or 'the value'} has the key {key!r} of type {type(key).__name__}; keys are str"
    )


def _at(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _finite(value: float, path: str) -> float:
    if math.isfinite(value):
        return value
    raise UnhashableSpecError(
        f"{path or 'the value'} is {value}, which JSON cannot say; use None for 'no value'"
    )
