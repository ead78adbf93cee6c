"""Ours, HPA and KEDA over the same loads, in simulated time: tables on standard output, pictures into a folder.

    PYTHONPATH=tests/support python -m bench.autoscaling [--seeds 5] [--start 8 90] [--only burst ramp day idle]
                                                         [--pictures docs/autoscaling]

Needs nothing but the operator's code; the same seeds give the same figures.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.autoscaling import plot, report
from bench.autoscaling.plant import Make
from bench.autoscaling.policies import Ours, Targets, policies
from bench.autoscaling.simulate import SCRAPE_SECONDS, SLO_SECONDS, Outcome, run
from bench.autoscaling.traces import Trace, all_traces, burst, steady

from ryzanstein_operator.api.autoscaling import ScalingPolicy

HIGHEST = 20
WAITING = 4
SHARE = 0.7
"""Of the tokens a second that a full replica generates, what it is to be kept at."""
STARTS = (8.0, 90.0)
"""Seconds: the demo model on kind, and some tens of gigabytes onto a GPU."""


def targets_of(trace: Trace, *, waiting_alone: bool = False) -> Targets:
    """The same for every policy."""
    tokens = 0 if waiting_alone else round(SHARE * Make(0.0).tokens_per_second)
    return Targets(WAITING, tokens, trace.low, HIGHEST)


def simulated(
    trace: Trace, starts: Sequence[float], seed: int, targets: Targets, scrape: float = SCRAPE_SECONDS
) -> list[list[Outcome]]:
    """For each start-up time each policy once, all over the same requests."""
    requests = list(trace.requests(seed, Make(0.0).mean_tokens))
    return [
        [run(trace, requests, policy, Make(start), seed, scrape) for policy in policies(targets)] for start in starts
    ]


def table(
    names: Sequence[str], starts: Sequence[float], seeds: int, pictures: Path | None, scrape: float = SCRAPE_SECONDS
) -> Iterator[str]:
    """The rows; on the way the pictures, of the first seed."""
    for index, named in enumerate(all_traces(1)):
        if named.name not in names:
            continue
        traces = {seed: all_traces(seed)[index] for seed in range(1, seeds + 1)}
        found = [simulated(trace, starts, seed, targets_of(trace), scrape) for seed, trace in traces.items()]
        yield from _rows(named.title, starts, found)
        if pictures:
            (pictures / f"{named.name}.svg").write_text(picture(named, starts, found[0]))


def _rows(title: str, starts: Sequence[float], found: list[list[list[Outcome]]]) -> Iterator[str]:
    """found: by seed, by start-up time, by policy."""
    for start, by_seed in zip(starts, zip(*found, strict=True), strict=True):
        for outcomes in zip(*by_seed, strict=True):
            yield report.row(title, start, outcomes)


def picture(trace: Trace, starts: Sequence[float], found: list[list[Outcome]]) -> str:
    """Load above, and for each start-up time the replicas that answer."""
    bins = [trace.seconds * part / 400 for part in range(400)]
    load = plot.Panel("requests a second", (("load", [(time, trace.rate(time)) for time in bins]),), area=True)
    panels = [load]
    for start, outcomes in zip(starts, found, strict=True):
        lines = tuple((one.policy, [(time, float(ready)) for time, _, ready in one.sizes]) for one in outcomes)
        panels.append(plot.Panel(f"replicas that answer; a start takes {start:.0f} s", lines))
    return plot.draw(trace.title, trace.seconds, panels)


def waiting_alone(seeds: int) -> Iterator[str]:
    """What becomes of a steady load when requests that wait are the only target."""
    for alone in (True, False):
        trace, starts = steady(), STARTS[:1]
        targets = targets_of(trace, waiting_alone=alone)
        found = [simulated(trace, starts, seed, targets) for seed in range(1, seeds + 1)]
        yield from _rows("WaitingRequests alone" if alone else "and TokensPerSecond", starts, found)


def slower(seeds: int) -> Iterator[str]:
    """What becomes of a burst on slow replicas when the size may grow by six in ninety seconds and no more."""
    trace, make, few = burst(), Make(STARTS[1]), ScalingPolicy(type="Replicas", value=6, period_seconds=90)
    for name, up in (("as by default", ()), ("6 in 90 s", (few,))):
        outcomes = [
            run(trace, trace.requests(seed, make.mean_tokens), Ours(targets_of(trace), name, up), make, seed)
            for seed in range(1, seeds + 1)
        ]
        yield report.row(trace.title, STARTS[1], outcomes)


def main() -> None:
    """As the module's docstring says."""
    parser = argparse.ArgumentParser(prog="python -m bench.autoscaling", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--start", type=float, nargs="+", default=list(STARTS), metavar="SECONDS")
    parser.add_argument("--only", nargs="+", default=[trace.name for trace in all_traces(1)], metavar="TRACE")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    make = Make(0.0)
    print(
        f"A replica: {make.slots} requests at one time, {make.tokens_per_second:.0f} tokens/s and "
        f"{make.requests_per_second:.2f} requests/s when full. Late: first token after {SLO_SECONDS:.0f} s.\n"
    )
    print(report.HEAD)
    for line in table(given.only, given.start, given.seeds, given.pictures):
        print(line, flush=True)
    print(f"\nAll scraped every 30 s instead of {SCRAPE_SECONDS:.0f} s:\n\n{report.HEAD}")
    for line in table([burst().name], given.start, given.seeds, None, 30.0):
        print(line)
    print(f"\nA steady load of five requests a second:\n\n{report.HEAD}")
    for line in waiting_alone(given.seeds):
        print(line)
    print(f"\nOurs, with other policies for scaleUp:\n\n{report.HEAD}")
    for line in slower(given.seeds):
        print(line)


if __name__ == "__main__":
    main()
