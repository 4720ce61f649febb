from eval.counts import counted, first_names


def test_one_is_singular_and_all_other_counts_are_plural() -> None:
    assert [counted(num, "merge job") for num in (0, 1, 2, 2048)] == [
        "0 merge jobs",
        "1 merge job",
        "2 merge jobs",
        "2,048 merge jobs",
    ]
    assert counted(2, "table entry", plural="table entries") == "2 table entries"


def test_names_beyond_the_first_are_counted() -> None:
    """A message that leaves names out without a word would look complete."""
    assert first_names([]) == ""
    assert first_names("abcde") == "a, b, c, d, e"
    assert first_names("abcdef") == "a, b, c, d, e and 1 more"
    assert first_names(range(2000), most=2) == "0, 1 and 1,998 more"
