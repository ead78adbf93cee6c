"""The operator over many services, against the Deployment controller over as many Deployments, in one run.

    PYTHONPATH=tests/support python -m bench.operator [--services 100] [--qps 100] [--quiet-seconds 60]

Each side has a control plane of its own (etcd, kube-apiserver, kube-controller-manager, no kubelet: pods are bound and
called ready by tests/support/fakekubelet.py, in this process). Needs the programs in $RYZANSTEIN_KUBE_BIN.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from bench.operator import measure, phases, report, world
from bench.operator.client import connect

from operator_process import OperatorProcess
from ryzanstein_operator.cluster.resources import SERVICES

CHANGES = 10


async def deployments(directory: Path, services: int, qps: int) -> phases.Convergence:
    """The peer: the Deployment controller alone."""
    with world.control_plane(directory, services, qps) as server:
        async with connect(server) as api:
            bodies = [world.bare_deployment(index) for index in range(services)]
            done = "Ready", f"{world.REPLICAS}/{world.REPLICAS}"
            return await phases.converge(api, world.DEPLOYMENTS, bodies, done, server.pids | {"this": os.getpid()})


async def operated(
    directory: Path, services: int, qps: int, quiet: float, resync: float
) -> tuple[phases.Operated, phases.Start]:
    """The operator over as many services."""
    with world.control_plane(directory, services, qps) as server:
        async with connect(server) as api:
            with world.operator(server, "one") as operator:
                await _leads(operator)
                pids = server.pids | {"operator": operator.process.pid, "this": os.getpid()}
                bodies = [world.service(index) for index in range(services)]
                convergence = await phases.converge(api, SERVICES.path(world.TEAM), bodies, ("Ready", "True"), pids)
                await phases.rest(api)
                page = operator.probe("/metrics")[1]
                visits, writes = measure.Visits.of(page), measure.operator_writes(page)
                figures = phases.Operated(convergence, writes, visits, measure.memory_bytes(operator.process.pid)[1])
                for index in range(min(CHANGES, services)):
                    name = world.service(index)["metadata"]["name"]
                    figures.changes.append(await phases.single_change(api, name, world.REPLICAS + 1))
                await phases.rest(api)
                await phases.quiet(api, quiet, operator, figures)
            with world.operator(server, "two", resync) as operator:
                return figures, await phases.restart(api, operator, services, resync)


async def _leads(operator: OperatorProcess) -> None:
    async with asyncio.timeout(60):
        while not operator.leads:
            await asyncio.sleep(0.1)


async def compare(arguments: argparse.Namespace, directory: Path) -> None:
    """Both sides, one after the other."""
    peer = None
    if not arguments.no_peer:
        peer = await deployments(directory / "deployments", arguments.services, arguments.qps)
        print(report.convergence("Deployment controller", arguments.services, peer), flush=True)
    resync = 20.0 + arguments.services / 50
    quiet = arguments.quiet_seconds
    figures, start = await operated(directory / "operator", arguments.services, arguments.qps, quiet, resync)
    print(report.operated(arguments.services, figures, quiet))
    print(report.start(start))
    if peer is not None:
        print(f"\ntime, operator / Deployment controller: {figures.convergence.seconds / peer.seconds:.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.operator", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--services", type=int, default=1000, help="how many, of 4 replicas each (default: %(default)s)"
    )
    parser.add_argument(
        "--qps", type=int, default=100, help="calls a second that each controller of Kubernetes may make (default: 100)"
    )
    parser.add_argument("--quiet-seconds", type=float, default=60.0, help="in which nothing may be written")
    parser.add_argument("--no-peer", action="store_true", help="the operator alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ryzanstein-bench-") as directory:
        asyncio.run(compare(arguments, Path(directory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
