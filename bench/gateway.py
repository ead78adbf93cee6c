"""Our gateway against nginx and LiteLLM's proxy, in one run, with the same client and the same replica.

    python -m bench.gateway [--rounds 3] [--skip litellm]

One process each: the proxy under test on the last core, client and replica on the first. Figures "per core" are
requests and tokens a second of the proxy's own processor time, so that neither the client nor other work on the
machine can be what limits them. See bench/README.md.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from bench import gateway_peers as peers
from bench.gateway_load import Job, Latency, Result, Target, request_bytes
from bench.gateway_proc import undisturbed, usage

UNARY_REQUESTS: Final = 300
TOKEN_ROUNDS: Final = 12
TOKENS: Final = 50
IDLE_STREAMS: Final = 10_000
HANGUPS: Final = 10_000
SPARE_FILES: Final = 200
"""Files that a gateway has open besides two for each stream."""
DIRECT: Final = "direct"
OURS: Final = "ryzanstein"

_WRK_SCRIPT: Final = """\
wrk.method = "POST"
wrk.headers["authorization"] = "Bearer {key}"
wrk.headers["content-type"] = "application/json"
wrk.body = '{body}'
done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d\\n", summary.requests, summary.duration,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status))
end
"""


@dataclass
class Bench:
    """What runs, and where."""

    folder: Path
    first: int
    last: int
    replica: Target
    replica_pid: int
    realtime: bool
    proxies: dict[str, peers.Running] = field(default_factory=dict)

    def target(self, name: str) -> Target:
        """The server of a name."""
        return self.replica if name == DIRECT else Target(name, self.proxies[name].port, peers.KEY)


@dataclass(frozen=True)
class Rate:
    """Of one measurement."""

    per_second: float
    per_cpu_second: float


async def load(bench: Bench, job: Job, while_held: Callable[[int], None] | None = None) -> Result:
    """Run a job in a process on the first core; `while_held` is called while an idle job holds its streams."""
    client = (sys.executable, "-m", "bench.gateway_load", msgspec.json.encode(job).decode())
    realtime = ("chrt", "-r", "1") if bench.realtime and job.kind in ("unary", "tokens") else ()
    command = peers.pinned(bench.first, *realtime, *client)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(300):
            if while_held is not None:
                begun = int(await process.stdout.readline())
                await asyncio.sleep(1)
                await asyncio.to_thread(while_held, begun)
            out, _ = await process.communicate(b"")
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise RuntimeError(f"the client failed on {job.kind}")
    return msgspec.json.decode(out, type=Result)


async def latencies(bench: Bench, kind: str) -> dict[str, Latency]:
    """One request at a time, all targets in turn."""
    targets = tuple(bench.target(name) for name in (DIRECT, *bench.proxies))
    if kind == "unary":
        job = Job(kind=kind, targets=targets, requests=UNARY_REQUESTS, gap_seconds=0.004, tokens=16)
    else:
        job = Job(kind=kind, targets=targets, requests=TOKEN_ROUNDS, gap_seconds=0.01, tokens=TOKENS, pace=10)
    sessions = [bench.replica_pid, *(proxy.pid for proxy in bench.proxies.values())] if bench.realtime else []
    with undisturbed(sessions):
        result = await load(bench, job)
    if result.failed:
        raise RuntimeError(f"{result.failed} requests failed in {kind}")
    return result.latency


async def requests_per_second(bench: Bench, name: str, seconds: int, connections: int) -> Rate:
    """As many unary requests as a proxy takes, by wrk."""
    target = bench.target(name)
    script = bench.folder / f"{name}.lua"
    body = request_bytes(target, "pace-0", 16, stream=False).partition(b"\r\n\r\n")[2].decode()
    script.write_text(_WRK_SCRIPT.format(key=target.key, body=body))
    url = f"http://127.0.0.1:{target.port}/v1/chat/completions"
    command = ("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url)
    before = usage(bench.proxies[name].pid)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*peers.pinned(bench.first, *command), stdout=pipe)
    async with asyncio.timeout(seconds + 60):
        out, _ = await process.communicate()
    cpu = usage(bench.proxies[name].pid).cpu_seconds - before.cpu_seconds
    requests, micros, errors = map(int, out.decode().partition("RESULT ")[2].split())
    if errors:
        raise RuntimeError(f"{errors} of {requests} requests to {name} failed")
    return Rate(requests / (micros / 1e6), requests / cpu)


async def tokens_per_second(bench: Bench, name: str, seconds: float, streams: int) -> Rate:
    """Streams of 50 tokens a second each."""
    before = usage(bench.proxies[name].pid)
    job = Job(
        kind="streams", targets=(bench.target(name),), streams=streams, tokens=TOKENS * 2, pace=20, seconds=seconds
    )
    result = await load(bench, job)
    if result.failed:
        raise RuntimeError(f"{result.failed} streams of {name} failed")
    cpu = usage(bench.proxies[name].pid).cpu_seconds - before.cpu_seconds
    return Rate(result.tokens / result.seconds, result.tokens / cpu)


def say(line: str = "") -> None:
    """Print at once."""
    print(line, flush=True)


def tell_latency(title: str, taken: dict[str, Latency]) -> None:
    """Total and added latency of each proxy."""
    say(f"\n{title}, microseconds (added: more than without a proxy)")
    say(f"  {'':<12}{'least':>8}{'P50':>8}{'P99':>8}{'added P50':>11}{'P99':>8}   against nginx: P50, P99, both added")
    direct, plain = taken[DIRECT], taken["nginx"]
    for name, one in taken.items():
        cells = "".join(f"{value * 1e6:8.0f}" for value in (one.least, one.p50, one.p99))
        if name != DIRECT:
            added = (one.p50 - direct.p50, one.p99 - direct.p99)
            usual = (plain.p50 - direct.p50, plain.p99 - direct.p99)
            cells += f"{added[0] * 1e6:11.0f}{added[1] * 1e6:8.0f}{'':16}"
            ratios = (one.p50 / plain.p50, one.p99 / plain.p99, added[0] / usual[0], added[1] / usual[1])
            cells += "  ".join(f"{ratio:.2f}x" for ratio in ratios)
        say(f"  {name:<12}{cells}")


def tell_rates(title: str, rates: dict[str, list[Rate]]) -> None:
    """Medians, and the ratio of each proxy to LiteLLM with its range over the rounds."""
    say(f"\n{title}")
    say(f"  {'':<12}{'per core':>10}{'delivered':>11}   per core, against LiteLLM (least to greatest)")
    for name, taken in rates.items():
        core = statistics.median(one.per_cpu_second for one in taken)
        line = f"  {name:<12}{core:10.0f}{statistics.median(one.per_second for one in taken):11.0f}"
        if "litellm" in rates:
            pairs = zip(taken, rates["litellm"], strict=True)
            ratios = sorted(one.per_cpu_second / other.per_cpu_second for one, other in pairs)
            line += f"   {statistics.median(ratios):.1f}x   ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        say(line)


async def in_turn(bench: Bench, rounds: int, measure: Callable[[str], Awaitable[Rate]]) -> dict[str, list[Rate]]:
    """Rounds over all proxies, each round beginning with another one."""
    names = list(bench.proxies)
    taken: dict[str, list[Rate]] = {name: [] for name in names}
    for turn in range(rounds):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            taken[name].append(await measure(name))
    return taken


async def idle_streams(bench: Bench, name: str, streams: int) -> None:
    """Memory of a proxy that holds streams which say nothing."""
    pid = bench.proxies[name].pid
    before = usage(pid)

    def look(begun: int) -> None:
        after = usage(pid)
        each = (after.rss - before.rss) / max(begun, 1)
        say(
            f"  {name:<12}{begun:>8} streams   {after.rss / 1e6:7.0f} MB RSS in {after.processes} processes"
            f"   ({before.rss / 1e6:.0f} MB before; {each / 1e3:.1f} kB a stream)"
        )

    result = await load(bench, Job(kind="idle", targets=(bench.target(name),), streams=streams, seconds=600), look)
    if result.failed:
        say(f"  {'':<12}{result.failed:>8} of them failed or were cut")


async def hang_up(bench: Bench, name: str) -> None:
    """10,000 clients that leave in mid-stream: what is left of them."""
    pid = bench.proxies[name].pid
    job = Job(kind="hangups", targets=(bench.target(name),), streams=HANGUPS // 2, seconds=600)
    first = await load(bench, job)
    await asyncio.sleep(1)
    half = usage(pid)
    second = await load(bench, job)
    await asyncio.sleep(1)
    after = usage(pid)
    say(
        f"  {name:<12}{first.streams + second.streams:>8} left   files open: {half.files} after the first half,"
        f" {after.files} at the end;   RSS {half.rss / 1e6:.1f} MB, {after.rss / 1e6:.1f} MB"
    )


async def run(skip: frozenset[str], only: frozenset[str], rounds: int, *, realtime: bool) -> None:
    """Start everything, measure, print."""
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gateway-")))
        replica = await stack.enter_async_context(peers.upstream(folder, first))
        bench = Bench(folder, first, last, Target(DIRECT, replica.port), replica.pid, realtime)
        bench.proxies["nginx"] = await stack.enter_async_context(peers.nginx(folder, last, replica.port))
        bench.proxies[OURS] = await stack.enter_async_context(peers.gateway(folder, last, replica))
        if "litellm" not in skip:
            bench.proxies["litellm"] = await stack.enter_async_context(peers.litellm(folder, last, replica.port))
        if not only or "latency" in only:
            tell_latency("Latency of a unary request, one at a time", await latencies(bench, "unary"))
            tell_latency("Latency of a streamed token, one stream at a time", await latencies(bench, "tokens"))
        if not only or "unary" in only:
            await requests_per_second(bench, OURS, 1, 32)
            taken = await in_turn(bench, rounds, lambda name: requests_per_second(bench, name, 3, 32))
            tell_rates("Unary requests a second, 32 at a time", taken)
        if not only or "tokens" in only:
            taken = await in_turn(bench, rounds, lambda name: tokens_per_second(bench, name, 3, 100))
            tell_rates("Tokens a second, 100 streams of 50 tokens a second each", taken)
        if not only or "hangups" in only:
            say("\nClients that leave in mid-stream")
            await hang_up(bench, OURS)
        if not only or "idle" in only:
            say("\nIdle streams")
            # Two files a stream: where one process may not open so many, two share the port.
            processes = 1 if peers.os_files() >= 2 * IDLE_STREAMS + SPARE_FILES else 2
            if processes > 1:
                bench.proxies[OURS] = await stack.enter_async_context(peers.gateway(folder, last, replica, processes))
            await idle_streams(bench, OURS, IDLE_STREAMS)


def main() -> None:
    """Read the arguments, check for the programs, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", nargs="*", default=[], help="peers to leave out: litellm")
    parser.add_argument("--only", nargs="*", default=[], help="latency unary tokens hangups idle")
    parser.add_argument(
        "--realtime", action="store_true", help="measure latency with the processor taken from all else; needs root"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: all that was started is ended first
    skip, only = frozenset(arguments.skip), frozenset(arguments.only)
    asyncio.run(run(skip, only, arguments.rounds, realtime=arguments.realtime))


if __name__ == "__main__":
    main()
