"""Demand is remembered for as long as it is told of, summed over gateways, and forgotten after."""

from ryzanstein_operator.cluster.cache import Key
from ryzanstein_operator.cluster.demand import MEMORY_SECONDS, MOST_SENDERS, Demands
from ryzanstein_operator.decide.observed import Demand

CHAT = Key("team", "chat")


def test_gateways_are_summed_and_each_ones_last_word_counts() -> None:
    now = [0.0]
    demands = Demands(lambda: now[0])
    assert demands.of(CHAT) is None
    demands.tell(CHAT, "a", 3)
    demands.tell(CHAT, "b", 4)
    demands.tell(CHAT, "a", 5)
    assert demands.of(CHAT) == Demand(9)
    assert demands.of(Key("team", "other")) is None


def test_silence_ends_an_episode_and_the_next_one_is_news_again() -> None:
    now = [0.0]
    demands = Demands(lambda: now[0])
    demands.tell(CHAT, "a", 3)
    demands.spoken(CHAT)
    now[0] = MEMORY_SECONDS / 2
    demands.tell(CHAT, "b", 1)
    now[0] = MEMORY_SECONDS
    assert demands.of(CHAT) == Demand(1, spoken=True), "a is silent, b is not"
    now[0] = 2 * MEMORY_SECONDS
    assert demands.of(CHAT) is None
    demands.tell(CHAT, "a", 2)
    assert demands.of(CHAT) == Demand(2)


def test_no_gateway_can_fill_the_memory() -> None:
    demands = Demands(lambda: 0.0)
    for number in range(MOST_SENDERS + 10):
        demands.tell(CHAT, str(number), 1)
    assert demands.of(CHAT) == Demand(MOST_SENDERS)
