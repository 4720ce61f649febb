import subprocess
import sys
from pathlib import Path

import pytest

from workers.store.local import LocalStore
from workers.store.opening import check_store, open_store, supports_conditional_put
from workers.store.protocol import (
    StoreCredentialsError,
    StoreNotFoundError,
    StoreNotWritableError,
    StoreUnavailableError,
    StoreUrlError,
)

ENDPOINT = "http://127.0.0.1:1"  # nothing listens on port 1


class ForgetfulStore(LocalStore):
    """A store that ignores the condition of a conditional put, like some S3 servers."""

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Writes the object in any case, and reports a win."""
        self.put(key, content)
        return True


def test_path_and_file_url_open_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths become absolute, so that other processes open the same directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert open_store("./store").url == str(tmp_path / "store")
    assert open_store("~/store").url == "/home/someone/store"
    assert open_store("./$HOME/store").url == str(tmp_path / "$HOME" / "store")
    assert open_store("$1.5-$old/store").url == str(tmp_path / "$1.5-$old" / "store")
    assert open_store("file:///data/my%20store").url == "/data/my store"


def test_opening_writes_nothing(tmp_path: Path) -> None:
    """A mistyped path creates no directory, and its store is empty."""
    store = open_store(str(tmp_path / "store"))
    assert list(store.list("")) == []
    assert not (tmp_path / "store").exists()


def test_opening_a_directory_does_not_load_boto3(tmp_path: Path) -> None:
    """Importing boto3 takes longer than `--help` may take."""
    script = (
        "import sys; from workers.store.opening import check_store, open_store; "
        "import workers.artifacts.artifacts; "
        "check_store(sys.argv[1]); sys.exit('boto3' in sys.modules or 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "empty"),
        ("gs://bucket/x", "scheme 'gs'"),
        ("s3:/bucket/x", r"write s3://bucket/x, or \./s3:/bucket/x for a folder"),
        ("S3:bucket/x", "write s3://bucket/x"),
        ("file:/data/x", "write file:///data/x"),
        ("file://data/x", "three slashes: file:///data/x"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://bucket/x?endpoint=http://h", "unknown parameter endpoint"),
        ("s3://bucket/x?endpoint_url=host:9000", "give http://host:port"),
        ("s3://bucket/x?endpoint_url=http://host:99999", "give http://host:port"),
        ("s3://bucket/x?endpoint_url=http://[", "give http://host:port"),
        ("s3://[", "cannot be read"),
        ("s3://b/x", "'b' can be no bucket; a bucket's name has 3 to 63"),
        ("s3://_old/x", "'_old' can be no bucket"),
        ("$HOME/x", r"begins with the variable \$HOME, which .* or \./\$HOME/x for a folder"),
        ("${DATA}", r"begins with the variable \$\{DATA\}"),
        ("s3://bucket/../x", "cannot be a key"),
    ],
)
def test_bad_url_is_refused_with_what_is_allowed(url: str, problem: str) -> None:
    """The message has the problem."""
    with pytest.raises(ValueError, match=problem):
        open_store(url)


@pytest.mark.parametrize(
    "url", ["s3://AKIA:hush@bucket/x", "s3://bucket/x?endpoint_url=http://AKIA:hush@host:9000"]
)
def test_credentials_in_url_are_refused_and_not_shown(url: str) -> None:
    """The error message does not show the secret."""
    with pytest.raises(StoreUrlError, match="credentials") as caught:
        open_store(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("text", ["junk", "localhost:9000", "http://host:port", "s3://host"])
def test_variable_with_another_endpoint_is_named(text: str) -> None:
    """The study file is not to blame."""
    with pytest.raises(StoreUrlError, match=f"the variable AWS_ENDPOINT_URL is '{text}'"):
        open_store("s3://bucket/x", environment={"AWS_ENDPOINT_URL": text})


@pytest.mark.parametrize(
    ("name", "text"), [("AWS_DEFAULT_REGION", "no region"), ("AWS_CONFIG_FILE", "broken.ini")]
)
def test_settings_without_which_no_client_exists_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """Nothing was asked of a server yet, so the message speaks of no network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.ini").write_text("[default")
    monkeypatch.setenv(name, text)
    with pytest.raises(StoreCredentialsError, match=f"the AWS settings .*{text}.* AWS_"):
        open_store("s3://bucket/x", environment={})


def test_endpoint_comes_from_the_url_or_else_the_environment() -> None:
    """A store's own URL contains its endpoint, whether URL or environment named it."""
    environment = {"AWS_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL_S3": "http://b:2"}
    opened = open_store("s3://bucket/x/", environment=environment)
    assert opened.url == "s3://bucket/x?endpoint_url=http://b:2"
    opened = open_store("s3://bucket/x?endpoint_url=http://c:3", environment=environment)
    assert opened.url == "s3://bucket/x?endpoint_url=http://c:3"
    assert open_store("s3://bucket/x", environment={}).url == "s3://bucket/x"


def test_writable_directory_passes_the_check(tmp_path: Path) -> None:
    """The check leaves no object behind."""
    check_store(str(tmp_path / "store"))
    assert list(open_store(str(tmp_path / "store")).list("")) == []


def test_file_in_place_of_the_directory_fails_the_check(tmp_path: Path) -> None:
    """The error for a path that cannot be a directory has the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreNotWritableError, match="file"):
        check_store(str(tmp_path / "file"))
    with pytest.raises(StoreNotWritableError, match="file"):
        check_store(str(tmp_path / "file" / "below"))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_directory_that_cannot_be_made_fails_the_check() -> None:
    """No user can make a directory in `/proc`; the error says to choose another place."""
    with pytest.raises(StoreNotWritableError, match=r"/proc/x.*choose a directory"):
        check_store("/proc/x")


def test_store_that_ignores_conditions_is_detected(tmp_path: Path) -> None:
    """The probe returns False for a store where the second conditional put wins as well."""
    store = ForgetfulStore(tmp_path)
    assert not supports_conditional_put(store)
    assert list(store.list("")) == []


@pytest.mark.s3
def test_bucket_on_a_real_server_passes_the_check(s3_url: str) -> None:
    """The check leaves no object behind."""
    check_store(s3_url)
    assert list(open_store(s3_url).list("")) == []


@pytest.mark.s3
def test_missing_credentials_are_reported(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the environment variables to set."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreCredentialsError, match="AWS_ACCESS_KEY_ID"):
        check_store(s3_url)


@pytest.mark.s3
@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_reported(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """An unknown access key and a wrong secret give the same error."""
    monkeypatch.setenv(variable, "wrong")
    with pytest.raises(StoreCredentialsError, match="wrong or expired"):
        check_store(s3_url)


@pytest.mark.s3
def test_unknown_profile_is_reported(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt AWS_PROFILE is a `StoreCredentialsError`."""
    monkeypatch.setenv("AWS_PROFILE", "misspelt")
    with pytest.raises(StoreCredentialsError, match="misspelt"):
        check_store(s3_url)


@pytest.mark.s3
def test_missing_bucket_is_reported(s3_url: str) -> None:
    """The message says to create the bucket."""
    with pytest.raises(StoreNotFoundError, match="create it"):
        check_store(s3_url.replace("s3://", "s3://not-"))


def test_silent_server_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing listens at the endpoint, the message says to check it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(StoreUnavailableError, match="check the endpoint"):
        check_store(f"s3://bucket/x?endpoint_url={ENDPOINT}")
