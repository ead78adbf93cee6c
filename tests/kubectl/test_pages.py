"""What workers say of themselves is read, from the real pages, and from those of other versions."""

import pytest

from healthpages import health_pages
from ryzanstein_kubectl.model.pages import Load, counters, median, status_page
from ryzanstein_worker.server.health import page


def read(path: str, *, ranks: int = 2, nodes: int = 2) -> str:
    with health_pages(ranks, nodes) as pages:
        pages.engine.running, pages.engine.waiting, pages.engine.kv_cache_usage = 3, 2, 0.25
        for _ in range(20):  # their median stays where it is when the machine lets one of them wait
            pages.generate(2, first_token_seconds=0.05)
        answer = page(path, pages.probes, pages.metrics.expose)
    assert answer is not None
    return answer.body.decode()


def test_the_status_page_gives_load_and_ranks_with_their_pods() -> None:
    found = status_page(read("/health/status"))
    assert (found.phase, found.epoch, found.load) == ("serving", "e1", Load(3, 2, 0.25))
    assert [(rank.rank, rank.node_rank, rank.state) for rank in found.ranks] == [(0, 0, "idle"), (1, 1, "idle")]


def test_a_page_of_another_version_is_read_as_far_as_it_goes() -> None:
    found = status_page('{"running": 1, "soon": "to come"}')
    assert (found.load, found.ranks, found.accelerator_fault) == (Load(1, 0, 0.0), (), "")
    with pytest.raises(ValueError, match="no object"):
        status_page("[]")


def test_metrics_give_load_tokens_and_first_tokens() -> None:
    found = counters(read("/metrics"))
    assert (found.load, found.generation_tokens) == (Load(3, 2, 0.25), 40)
    assert found.first_token[-1] == (float("inf"), 20.0)
    assert median((), found.first_token) == pytest.approx(0.05, abs=0.011)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [], None),
        ([(0.1, 5), (float("inf"), 5)], [(0.1, 5), (float("inf"), 5)], None),
        ([(0.1, 0), (0.2, 0), (float("inf"), 0)], [(0.1, 0), (0.2, 10), (float("inf"), 10)], 0.15),
        ([(0.1, 9), (0.2, 9), (float("inf"), 9)], [(0.1, 10), (0.2, 12), (float("inf"), 12)], 0.125),
        ([(0.1, 0), (float("inf"), 0)], [(0.1, 1), (float("inf"), 9)], 0.1),
    ],
)
def test_the_median_is_of_what_came_between_two_reads(
    before: list[tuple[float, float]], after: list[tuple[float, float]], expected: float | None
) -> None:
    found = median(before, after)
    assert found == (None if expected is None else pytest.approx(expected))
