"""Loads the code of users' methods."""

import linecache
import sys
from types import ModuleType

from eval.digests import sha256_of_bytes
from merge.catalogue import MethodCard
from merge.own import OwnMethod, named
from workers.artifacts.layout import Layout
from workers.own_methods.sources import GROUP, OwnMethodError, packaged_methods, packaged_source
from workers.specs.own_method import OwnMethodSpec
from workers.store.protocol import NotFoundError, Store


def load_file(content: bytes, *, name: str, shown: str) -> OwnMethod:
    """Runs a file and returns the method in it.

    The file runs as a module of its own, whatever folder it lies in, as on every node.

    Args:
        content: The file's bytes.
        name: The name of the object in the file.
        shown: The file's name in tracebacks.

    Raises:
        OwnMethodError: The file has no such method.
        Exception: The file itself raises it.
    """
    module = ModuleType(f"mergesweep_method_{sha256_of_bytes(content)[:16]}")
    module.__file__ = shown
    text = content.decode()
    linecache.cache[shown] = (len(text), None, text.splitlines(keepends=True), shown)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(text, shown, "exec"), module.__dict__)  # noqa: S102 the user's own code
    found = vars(module).get(name)
    if not isinstance(found, OwnMethod):
        others = [each for each, value in vars(module).items() if isinstance(value, OwnMethod)]
        has = f"it has {', '.join(others)}" if others else "it has none"
        kind = "nothing" if found is None else f"an object of type {type(found).__name__}"
        raise OwnMethodError(f"{name} is {kind}; expected a merge.own.OwnMethod, and {has}")
    return found


def load_package(name: str, *, source: str) -> OwnMethod:
    """Returns the method that an installed package offers.

    Args:
        name: The name of its entry point.
        source: The distribution and version that are expected.

    Raises:
        OwnMethodError: The package is missing, has another version, or offers something else.
    """
    found = packaged_methods().get(name)
    if found is None:
        raise OwnMethodError(
            f"no installed package offers a method {name!r} (entry points of {GROUP}); install "
            f"{source} on every node"
        )
    if packaged_source(found) != source:
        raise OwnMethodError(
            f"method {name!r} is of {packaged_source(found)} here, and the study's is of {source}; "
            "install one version on every node"
        )
    method = found.load()
    if not isinstance(method, OwnMethod):
        raise OwnMethodError(
            f"{found.value} is of type {type(method).__name__}; expected a merge.own.OwnMethod"
        )
    return method


def load_stored(spec: OwnMethodSpec, *, store: Store) -> MethodCard:
    """Returns the card of a planned method, whose parameters select its functions.

    Raises:
        OwnMethodError: The store lacks the file, or has another one; or as `load_package`.
    """
    if spec.sha256 is None:
        method = load_package(spec.name, source=spec.source)
    else:
        content = stored_file(spec.sha256, store=store)
        method = load_file(content, name=spec.name, shown=f"{spec.name} ({spec.sha256[:16]}).py")
    return named(spec.name, card=method.card, functions=method.functions)


def stored_file(sha256: str, *, store: Store) -> bytes:
    """Returns the file of a method from the store.

    Raises:
        OwnMethodError: The file is missing or has another digest.
    """
    key = Layout.method(sha256)
    try:
        content = store.get(key)
    except NotFoundError as error:
        raise OwnMethodError(
            f"{key} is missing in {store.url}; run the study's file again where the method's file "
            "is"
        ) from error
    if sha256_of_bytes(content) != sha256:
        raise OwnMethodError(
            f"{key} in {store.url} does not have its digest; delete it, and run the study's file "
            "again where the method's file is"
        )
    return content
