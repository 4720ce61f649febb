import pytest

from workers.artifacts.layout import InvalidNameError, Layout

ID = "0123456789abcdef"
ATTEMPT = "00ff00ff00ff00ff"
SHA256 = "0f" * 32


def test_paths_are_those_of_the_design() -> None:
    """Stores outlive releases: a path that changes would lose computed artifacts."""
    artifact = f"artifacts/expert/01/{ID}"
    assert Layout.artifacts("expert") == "artifacts/expert/"
    assert Layout.manifest("expert", ID) == f"{artifact}/manifest.json"
    assert Layout.attempt("expert", ID, ATTEMPT) == f"{artifact}/{ATTEMPT}/"
    file_key = Layout.attempt_file("expert", ID, attempt=ATTEMPT, name="expert.safetensors")
    assert file_key == f"{artifact}/{ATTEMPT}/expert.safetensors"
    assert Layout.in_flight(ID) == f"in-flight/{ID}/"
    checkpoint = Layout.checkpoint(ID, step=70, sha256=SHA256)
    assert checkpoint == f"in-flight/{ID}/0000000070-{SHA256}.safetensors"
    shard = Layout.shard(ID, split="train", number=12, sha256=SHA256)
    assert shard == f"in-flight/{ID}/train-00012-{SHA256}.arrow"
    assert Layout.study("lr-sweep") == "studies/lr-sweep/"
    assert Layout.index("lr-sweep", SHA256) == f"studies/lr-sweep/index/{SHA256}.parquet"
    assert Layout.study("lr-sweep", "events", "1.jsonl") == "studies/lr-sweep/events/1.jsonl"


def test_manifest_key_is_parsed_back() -> None:
    """Parsing a manifest's key returns the kind and id that it was made from."""
    assert Layout.parse_manifest_key(Layout.manifest("merge", ID)) == ("merge", ID)


def test_parts_of_an_index_are_parsed_back() -> None:
    """A part's key gives the digest that its content must have; other objects are no parts."""
    prefix = Layout.index("lr-sweep")
    assert Layout.parse_index_key(Layout.index("lr-sweep", SHA256)) == SHA256
    others = (prefix, f"{prefix}{SHA256}", f"{prefix}a/{SHA256}.parquet", "studies/s/index")
    assert [Layout.parse_index_key(key) for key in others] == [None] * 4


def test_ranges_of_a_kind_are_all_its_artifacts() -> None:
    """Every id is in one of the 16 ranges that are listed in parallel."""
    keys = [Layout.manifest("merge", f"{number:02x}" + "0" * 14) for number in range(256)]
    ranges = Layout.artifact_ranges("merge")
    assert [sum(key.startswith(each) for each in ranges) for key in keys] == [1] * 256


@pytest.mark.parametrize(
    "key",
    [
        Layout.attempt_file("expert", ID, attempt=ATTEMPT, name="manifest.json"),
        f"artifacts/expert/ff/{ID}/manifest.json",
        f"artifacts/expert/01/{ID}/manifest.json.bak",
        f"artifacts/expert/01/{ID.upper()}/manifest.json",
        f"old/artifacts/expert/01/{ID}/manifest.json",
        "artifacts/expert/01/0123/manifest.json",
        "studies/s/plan.json",
        "",
    ],
)
def test_other_key_is_no_manifest(key: str) -> None:
    """A file of an attempt does not count as an artifact, even under the manifest's name."""
    assert Layout.parse_manifest_key(key) is None


def test_keys_below_an_artifact_are_parsed() -> None:
    """The address, attempt and name come back; an unknown object has no attempt."""
    address = ("merge", ID)
    prefix = f"artifacts/merge/01/{ID}"
    manifest = Layout.parse_artifact_key(Layout.manifest("merge", ID))
    assert manifest == (address, None, "manifest.json")
    assert manifest.is_manifest
    file = Layout.parse_artifact_key(Layout.attempt_file(*address, attempt=ATTEMPT, name="a"))
    assert file == (address, ATTEMPT, "a")
    named_alike = Layout.parse_artifact_key(f"{prefix}/{ATTEMPT}/manifest.json")
    assert named_alike is not None
    assert not named_alike.is_manifest
    withdrawn = Layout.parse_artifact_key(Layout.withdrawn("merge", ID, 3))
    assert withdrawn == (address, None, "withdrawn-0003.json")
    assert Layout.parse_artifact_key(f"{prefix}/{ATTEMPT}/deeper/a") == (
        address,
        None,
        f"{ATTEMPT}/deeper/a",
    )
    for key in (prefix, "artifacts/of-another-tool.txt", f"artifacts/merge/ff/{ID}/manifest.json"):
        assert Layout.parse_artifact_key(key) is None


def test_keys_of_studies_and_in_flight_are_parsed() -> None:
    """The folder's name and the path below it come back; objects beside folders have none."""
    assert Layout.parse_study_key(Layout.study("s", "plan.json")) == ("s", "plan.json")
    assert Layout.parse_study_key(Layout.study("s", "events", "1.jsonl")) == ("s", "events/1.jsonl")
    assert Layout.parse_study_key("studies/readme") is None
    assert Layout.parse_in_flight_key(Layout.in_flight(ID, "a", "b")) == (ID, "a/b")
    assert Layout.parse_in_flight_key("in-flight/readme") is None
    assert Layout.parse_in_flight_key(Layout.study("s", "plan.json")) is None


def test_every_path_lies_below_a_prefix_of_the_layout() -> None:
    """Garbage collection lists these prefixes and nothing else."""
    assert Layout.manifest("merge", ID).startswith(Layout.artifacts())
    assert Layout.in_flight(ID).startswith(Layout.in_flight())
    assert Layout.study("s").startswith(Layout.studies())
    assert Layout.probes() == "probes/"


def test_checkpoint_key_is_parsed_back() -> None:
    """Parsing a checkpoint's key returns the training, step and digest that it was made from."""
    key = Layout.checkpoint(ID, step=70, sha256=SHA256)
    assert Layout.parse_checkpoint_key(key) == (ID, 70, SHA256)


@pytest.mark.parametrize(
    "key",
    [
        Layout.in_flight(ID),
        f"in-flight/{ID}/70-{SHA256}.safetensors",
        f"in-flight/{ID}/0000000070-{SHA256[:-1]}.safetensors",
        f"in-flight/{ID}/0000000070-{SHA256}.safetensors.bak",
        f"in-flight/{ID}/0000000070-{SHA256}.pt",
        f"in-flight/{ID}/old/0000000070-{SHA256}.safetensors",
        f"in-flight/{ID.upper()}/0000000070-{SHA256}.safetensors",
        f"artifacts/{ID}/0000000070-{SHA256}.safetensors",
        "",
    ],
)
def test_other_key_is_no_checkpoint(key: str) -> None:
    """Objects with other names beside the checkpoints are not checkpoints."""
    assert Layout.parse_checkpoint_key(key) is None


def test_shard_key_is_parsed_back() -> None:
    """Parsing a shard's key returns the data id, split, number and digest it was made from."""
    key = Layout.shard(ID, split="test", number=12, sha256=SHA256)
    assert Layout.parse_shard_key(key) == (ID, "test", 12, SHA256)
    assert Layout.parse_checkpoint_key(key) is None


@pytest.mark.parametrize(
    "key",
    [
        Layout.checkpoint(ID, step=70, sha256=SHA256),
        f"in-flight/{ID}/train-12-{SHA256}.arrow",
        f"in-flight/{ID}/train-00012-{SHA256[:-1]}.arrow",
        f"in-flight/{ID}/train-00012-{SHA256}.arrow.bak",
        f"in-flight/{ID}/train-00012.arrow",
        f"artifacts/{ID}/train-00012-{SHA256}.arrow",
        "",
    ],
)
def test_other_key_is_no_shard(key: str) -> None:
    """Objects with other names beside the shards are not shards."""
    assert Layout.parse_shard_key(key) is None


@pytest.mark.parametrize("sha256", ["/../x", "a/b", "\n"])
def test_checkpoint_key_cannot_escape_its_trial(sha256: str) -> None:
    """A digest that contains a path is refused, because the whole file name is checked."""
    with pytest.raises(InvalidNameError, match="file name"):
        Layout.checkpoint(ID, step=1, sha256=sha256)


@pytest.mark.parametrize(
    "name", ["", "..", ".hidden", "a/b", "../x", "UPPER", "-dash", "a b", "a\n", "x" * 64, "ü"]
)
def test_bad_study_name_is_refused(name: str) -> None:
    """The message has the name."""
    with pytest.raises(InvalidNameError, match="study name") as caught:
        Layout.study(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("part", ["", ".", "..", "a/b", "../../x", "/x", ".tmp", "a\0", "a\n"])
def test_bad_file_name_is_refused(part: str) -> None:
    """No file of an attempt, a study or an unfinished artifact leaves its directory."""
    for spell in [
        lambda: Layout.attempt_file("expert", ID, attempt=ATTEMPT, name=part),
        lambda: Layout.study("s", "ok", part),
        lambda: Layout.in_flight(ID, part),
    ]:
        with pytest.raises(InvalidNameError, match="file name"):
            spell()


@pytest.mark.parametrize("artifact_id", ["", "../..", ID[:-1], ID + "0", ID.upper(), ID + "\n"])
def test_bad_id_is_refused(artifact_id: str) -> None:
    """An id is 16 lower-case hexadecimal digits."""
    with pytest.raises(InvalidNameError, match="id"):
        Layout.manifest("expert", artifact_id)
    with pytest.raises(InvalidNameError, match="id"):
        Layout.in_flight(artifact_id)


def test_bad_kind_and_attempt_are_refused() -> None:
    """A kind and an attempt become directories, so their names are checked too."""
    with pytest.raises(InvalidNameError, match="kind"):
        Layout.artifacts("a/b")
    with pytest.raises(InvalidNameError, match="attempt"):
        Layout.attempt("expert", ID, "..")
