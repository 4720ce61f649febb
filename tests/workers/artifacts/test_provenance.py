from dataclasses import asdict

from workers.artifacts.provenance import Provenance
from workers.specs.data import DataSpec
from workers.specs.ids import VERSIONS


def test_provenance_of_a_specification_has_its_id_version_and_values() -> None:
    """A worker only adds the inputs that it read."""
    spec = DataSpec(
        task="mnist_5k",
        fingerprint="0" * 64,
        image_size=32,
        max_train=None,
        max_test=None,
        evaluate_on="test",
    )
    provenance = Provenance.of(spec, kind="data", inputs={"fedcba9876543210": "1" * 64})
    assert (provenance.kind, provenance.id) == ("data", spec.id)
    assert provenance.version == VERSIONS["data"]
    values = asdict(spec)
    for name in ("on_bad_image", "max_validation"):
        del values[name]  # left out where it has its default, as before it existed
    assert provenance.spec == values
    assert provenance.inputs == {"fedcba9876543210": "1" * 64}
