"""What the routing policies are compared by. `python -m routing_scenarios` prints the table of docs/routing.md."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from routing_arrivals import Arrival, bursts, conversations, diurnal, mixed, steady
from routing_replica import Replica
from routing_simulator import Outcome, simulate
from ryzanstein_gateway.balance import Policy


@dataclass(frozen=True)
class Scenario:
    """One comparison: the same arrivals for each policy, at four replicas. The first one's `slowness` can be told."""

    title: str
    arrivals: Callable[[], list[Arrival]]
    gateways: int = 3
    slowness: float = 1.0

    def run(self, policy: Policy) -> Outcome:
        """What this policy makes of it."""
        replicas = [Replica(self.slowness if number == 0 else 1.0) for number in range(4)]
        return simulate(self.arrivals(), policy, replicas, gateways=self.gateways)


SCENARIOS: Final = (
    Scenario("Poisson", partial(steady, 23, 120)),
    Scenario("bursts", partial(bursts, 15, 120)),
    Scenario("a day", partial(diurnal, 15, 120)),
    Scenario("long and short", partial(mixed, 12, 120)),
    Scenario("one replica at a third of the speed", partial(steady, 17, 120), slowness=3.0),
    Scenario("conversations", partial(conversations, 12, 180)),
    Scenario("conversations, one gateway", partial(conversations, 12, 180), gateways=1),
)


def table() -> str:
    """Every policy in every scenario, as Markdown."""
    rows = [
        "| arrivals | policy | P99 wait, s | P50 / P99 first byte, s | busiest by requests | fullest / mean | cached |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for scenario in SCENARIOS:
        for policy in Policy:
            found = scenario.run(policy)
            rows.append(
                f"| {scenario.title} | {policy} | {found.wait(99):.2f} "
                f"| {found.first_byte(50):.2f} / {found.first_byte(99):.2f} "
                f"| +{found.imbalance():.1%} | {found.peak():.2f} | {found.hit_rate():.0%} |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
