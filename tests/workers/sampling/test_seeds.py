from workers.sampling.seeds import derive_seed


def test_seed_depends_on_every_argument() -> None:
    """Different purposes give different seeds, even if their parts concatenate to equal texts."""
    seeds = [
        derive_seed(0),
        derive_seed(1),
        derive_seed(0, "head"),
        derive_seed(0, "head", "mnist"),
        derive_seed(0, "epoch", 1),
        derive_seed(0, "epoch", 12),
        derive_seed(0, "epoch1", 2),
        derive_seed(0, "epoch", 1, 2),
    ]
    assert len(set(seeds)) == len(seeds)


def test_seed_fits_every_generator() -> None:
    """A seed is a non-negative number that fits a signed 64-bit integer."""
    assert all(0 <= derive_seed(seed, "x") < 2**63 for seed in range(100))


def test_seed_never_changes() -> None:
    """The expected numbers are literal, because another derivation would change every result."""
    assert derive_seed(0, "head", "mnist_5k") == 9_132_833_272_623_872_664
    assert derive_seed(7) == 4_359_823_973_405_836_615
