from threading import active_count

from merge.threads import in_order


def test_no_more_threads_are_started_than_there_are_items() -> None:
    """No machine starts a hundred thousand threads, and nothing here needs them."""
    before = active_count()
    found = list(in_order(lambda item: (item, active_count()), range(5), num_threads=100_000))
    assert [item for item, _ in found] == [0, 1, 2, 3, 4]
    assert max(num for _, num in found) <= before + 5
