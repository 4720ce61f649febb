from eval.counts import counted


def test_one_is_singular_and_all_other_counts_are_plural() -> None:
    assert [counted(num, "merge job") for num in (0, 1, 2, 2048)] == [
        "0 merge jobs",
        "1 merge job",
        "2 merge jobs",
        "2,048 merge jobs",
    ]
    assert counted(2, "table entry", plural="table entries") == "2 table entries"
