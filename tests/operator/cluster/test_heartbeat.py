"""A change that is known must be seen through the watch; the API server's own silence is forgiven."""

from ryzanstein_operator.cluster.heartbeat import STALE_SECONDS, Freshness, version_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_change_that_is_never_watched_makes_the_watch_stale() -> None:
    clock = Clock()
    freshness = Freshness(clock)
    freshness.expect(7)
    clock.now = STALE_SECONDS - 1
    freshness.expect(8)  # a later change must not start the time anew
    assert freshness.fresh()
    clock.now = STALE_SECONDS
    assert not freshness.fresh()
    assert freshness.age() == STALE_SECONDS


def test_a_change_that_is_watched_keeps_it_fresh() -> None:
    clock = Clock()
    freshness = Freshness(clock)
    freshness.expect(7)
    freshness.seen(6)
    clock.now = 30
    assert freshness.age() == 30
    freshness.seen(7)
    assert freshness.age() == 0
    freshness.expect(7)  # seen before it was known: the watch may be the faster one
    assert freshness.age() == 0


def test_an_api_server_that_is_down_is_no_fault_of_the_watch() -> None:
    clock = Clock()
    freshness = Freshness(clock)
    freshness.expect(7)
    freshness.forgive()
    clock.now = 1000
    assert freshness.fresh()


def test_a_version_that_is_no_number_counts_as_none() -> None:
    assert [version_of({"metadata": m}) for m in ({}, {"resourceVersion": "x"}, {"resourceVersion": "12"})] == [
        0,
        0,
        12,
    ]
