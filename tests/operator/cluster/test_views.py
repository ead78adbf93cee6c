"""What gateways see is kept as long as they go on saying it, and only what changed wakes anybody."""

from ryzanstein_operator.cluster.cache import Key
from ryzanstein_operator.cluster.views import FRESH_SECONDS, MOST_SENDERS, PUNCTUAL_SECONDS, Views
from ryzanstein_operator.decide.observed import ReplicaView, ServiceView

CHAT, OTHER = Key("team", "chat"), Key("team", "other")


def row(state: str = "Unreachable", seconds: float = 1.0, reason: str = "", address: str = "10.0.0.1") -> ReplicaView:
    return ReplicaView(address, state, reason, seconds)


class Told:
    """Views with a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.views = Views(lambda: self.now)

    def tell(self, *rows: ReplicaView, sender: str = "g", sound: int = 1, service: Key = CHAT) -> set[Key]:
        return self.views.tell(sender, [(service, ServiceView(sender, sound, rows))])


def test_only_what_is_seen_otherwise_than_before_is_news() -> None:
    told = Told()
    assert told.tell() == {CHAT}
    assert told.tell() == set()
    assert told.tell(row(seconds=1.0)) == {CHAT}
    assert told.tell(row(seconds=5.0)) == set(), "time alone is no news"
    assert told.tell(row("Refused")) == {CHAT}
    assert told.tell(row("Refused"), sound=0) == {CHAT}
    assert told.views.tell("g", []) == {CHAT}
    assert told.views.of(CHAT) == ()


def test_seconds_go_on_while_a_view_stands() -> None:
    told = Told()
    told.tell(row(seconds=1.5))
    told.now = 2.0
    assert told.views.of(CHAT)[0].replicas[0].seconds == 3.5


def test_words_that_differ_in_numbers_alone_stay_as_they_were_told_first() -> None:
    told = Told()
    told.tell(row("Lagging", reason="has not moved for 3.1 s"))
    assert told.tell(row("Lagging", reason="has not moved for 7.0 s")) == set()
    assert told.views.of(CHAT)[0].replicas[0].reason == "has not moved for 3.1 s"
    assert told.tell(row("Lagging", reason="answers late")) == {CHAT}


def test_a_gateway_that_missed_its_turn_is_no_witness_and_one_that_is_silent_is_forgotten() -> None:
    told = Told()
    told.tell(sender="a")
    told.now = 2.0
    told.tell(sender="b")
    told.now = PUNCTUAL_SECONDS + 0.1
    assert [view.sender for view in told.views.punctual()[CHAT]] == ["b"]
    assert [view.sender for view in told.views.of(CHAT)] == ["a", "b"]
    assert told.views.forget() == set()
    told.now = FRESH_SECONDS + 0.1
    assert told.views.forget() == {CHAT}
    assert [view.sender for view in told.views.of(CHAT)] == ["b"]
    told.now = 99.0
    assert told.views.of(CHAT) == ()
    assert told.views.punctual() == {}
    assert told.views.forget() == {CHAT}
    assert told.views.forget() == set()


def test_services_are_kept_apart() -> None:
    told = Told()
    told.views.tell("g", [(CHAT, ServiceView("g", 1)), (OTHER, ServiceView("g", 2))])
    assert [view.sound for view in told.views.of(OTHER)] == [2]
    assert told.views.tell("g", [(OTHER, ServiceView("g", 2))]) == {CHAT}
    assert told.views.of(CHAT) == ()


def test_senders_are_bounded_and_known_ones_go_on() -> None:
    told = Told()
    for number in range(MOST_SENDERS + 5):
        told.tell(sender=f"g{number}")
    assert len(told.views.of(CHAT)) == MOST_SENDERS
    assert told.tell(sender=f"g{MOST_SENDERS}") == set()
    assert told.tell(row(), sender="g0") == {CHAT}


def traffic(idle: float | None, *, in_flight: int | None = 0, waiting: int | None = 0) -> ServiceView:
    return ServiceView("g", 1, (), in_flight, waiting, idle)


def test_a_service_is_idle_for_as_long_as_every_gateway_says() -> None:
    told = Told()
    assert told.views.idle_seconds(CHAT) is None, "nobody has said anything"
    told.views.tell("a", [(CHAT, traffic(100.0))])
    assert told.views.idle_seconds(CHAT) == 100.0
    told.views.tell("b", [(CHAT, traffic(40.0))])
    assert told.views.idle_seconds(CHAT) == 40.0
    assert told.views.idle_seconds(OTHER) is None


def test_a_request_that_waits_or_runs_is_the_end_of_idleness() -> None:
    for busy in (traffic(40.0, in_flight=1), traffic(40.0, waiting=1)):
        told = Told()
        told.views.tell("a", [(CHAT, traffic(100.0))])
        told.views.tell("b", [(CHAT, busy)])
        assert told.views.idle_seconds(CHAT) == 0.0


def test_one_gateway_that_does_not_say_leaves_it_open() -> None:
    told = Told()
    told.views.tell("a", [(CHAT, traffic(100.0))])
    told.views.tell("old", [(CHAT, ServiceView("old", 1))])
    assert told.views.idle_seconds(CHAT) is None, "an older version does not say"
    told.views.tell("old", [])
    assert told.views.idle_seconds(CHAT) is None, "it does not know the service yet"
    told.views.tell("old", [(CHAT, traffic(100.0))])
    assert told.views.idle_seconds(CHAT) == 100.0
    told.now = PUNCTUAL_SECONDS
    told.views.tell("a", [(CHAT, traffic(100.0 + PUNCTUAL_SECONDS))])
    assert told.views.idle_seconds(CHAT) is None, "it is late, and may have had a request"
    told.now = FRESH_SECONDS
    told.views.tell("a", [(CHAT, traffic(100.0 + FRESH_SECONDS))])
    told.views.forget()
    assert told.views.idle_seconds(CHAT) == 100.0 + FRESH_SECONDS


def test_numbers_of_requests_are_no_news() -> None:
    told = Told()
    told.views.tell("a", [(CHAT, traffic(100.0))])
    assert told.views.tell("a", [(CHAT, traffic(0.0, in_flight=3, waiting=2))]) == set()
