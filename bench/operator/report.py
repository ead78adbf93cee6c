"""Figures into lines of text."""

from bench.operator.phases import Convergence, Operated, Start, median_and_worst

_MIB = 1024 * 1024


def convergence(title: str, count: int, found: Convergence) -> str:
    """Time, processor and writes of one side."""
    writes = sum(found.writes.values())
    return "\n".join(
        (
            f"{title}: {count} x 4 replicas ready after {found.seconds:.1f} s",
            f"  processor seconds: {_listed({name: round(used, 1) for name, used in found.cpu.items()})}",
            f"  writes the API server took: {writes} ({writes / count:.1f} each): {_listed(found.writes)}",
        )
    )


def operated(count: int, found: Operated, quiet_seconds: float) -> str:
    """All that is known of the operator after its work."""
    writes = sum(found.writes.values())
    usual, worst = median_and_worst(found.changes)
    visits = found.visits
    return "\n".join(
        (
            convergence("operator", count, found.convergence),
            f"  its own writes: {writes} ({writes / count:.2f} a service): {_listed(found.writes)}",
            f"  {visits.count} visits ({visits.count / count:.1f} a service), "
            f"P50 {visits.quantile(0.5) * 1000:.1f} ms, P99 {visits.quantile(0.99) * 1000:.0f} ms",
            f"  memory at its peak: {found.peak / _MIB:.0f} MiB",
            f"  one change in one service, until its write: {usual * 1000:.0f} ms (worst {worst * 1000:.0f} ms)",
            f"  its writes in {quiet_seconds:.0f} s of quiet: {found.quiet_own_writes} (by anyone: "
            f"{_listed(found.quiet_writes)}); processor {found.quiet_cpu / quiet_seconds:.1%}",
        )
    )


def start(found: Start) -> str:
    """A restart over what stands."""
    return "\n".join(
        (
            f"operator, started anew: each service visited after {found.seconds:.1f} s, "
            f"{found.cpu:.1f} processor seconds, {found.peak / _MIB:.0f} MiB",
            f"  one resync: {found.resync_cpu:.1f} processor seconds; writes of both: {found.writes}",
        )
    )


def _listed(counts: dict[str, int] | dict[str, float]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items(), key=lambda one: -one[1])) or "none"
