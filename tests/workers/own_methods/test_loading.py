from pathlib import Path

import pytest

from eval.digests import sha256_of_bytes
from merge.catalogue import parse_params
from merge.table import functions_of
from workers.artifacts.layout import Layout
from workers.own_methods.loading import load_package, load_stored
from workers.own_methods.sources import (
    OwnMethodError,
    method_name,
    packaged_methods,
    packaged_source,
    parse_reference,
)
from workers.specs.own_method import OwnMethodSpec, file_source
from workers.store.opening import open_store

CODE = b"""
from merge.catalogue import CARDS
from merge.own import OwnMethod
from merge.table import METHODS
Mine = OwnMethod(card=CARDS["average"], functions=METHODS["average"])
"""


def spec_of(source: str) -> OwnMethodSpec:
    """Returns the description of a method that averages."""
    from merge.catalogue import CARDS  # noqa: PLC0415 only this function uses it

    return OwnMethodSpec.of(CARDS["average"], name="Mine", source=source)


def test_forms_of_references() -> None:
    """Files and packages have forms of their own; other texts are built-in names."""
    assert method_name("./a/my.py:Mine") == method_name("package:Mine") == "Mine"
    assert parse_reference("ties") is None
    assert method_name("ties") == "ties"


def test_stored_file_is_loaded_by_its_digest(tmp_path: Path) -> None:
    """The parameters select the functions of the file; a file of another digest is refused."""
    store = open_store(str(tmp_path))
    sha256 = sha256_of_bytes(CODE)
    spec = spec_of(file_source(sha256))
    with pytest.raises(OwnMethodError, match="is missing"):
        load_stored(spec, store=store)
    store.put(Layout.method(sha256), CODE)
    params = parse_params("Mine", {}, card=load_stored(spec, store=store))
    assert functions_of(params).combine.__module__ == "merge.operators.average"
    store.put(Layout.method(sha256), CODE + b"# edited")
    with pytest.raises(OwnMethodError, match="does not have its digest"):
        load_stored(spec, store=store)


def test_packages_offer_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The distribution's name and version are the source; another version is refused."""
    about = tmp_path / "my_methods-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-methods\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(
        "[mergesweep.methods]\nmine = my_methods_of_a_test:Mine\n"
    )
    (tmp_path / "my_methods_of_a_test.py").write_bytes(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged_source(packaged_methods()["mine"]) == "my-methods==1.2"
    assert load_package("mine", source="my-methods==1.2").card.title == "Average"
    with pytest.raises(OwnMethodError, match=r"is of my-methods==1\.2 here"):
        load_package("mine", source="my-methods==1.3")
    with pytest.raises(OwnMethodError, match="install other==1 on every node"):
        load_package("other", source="other==1")
