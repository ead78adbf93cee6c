"""All cases at once: lanes work off a queue of runs against one API server, and tests wait for what is theirs."""

import contextlib
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from apiserver import running
from fakekubelet import fake_kubelet
from faultcases.families import FAMILIES, Case
from faultcases.lane import Lane
from faultcases.recorder import Recorder
from faultcases.runs import FaultFree, Reference, Result, compare, fault_free, run
from faultcases.scenarios import SCENARIOS
from faultproxy import ProxyHost
from operator_rights import install_crd
from zygote import zygote

LANES = int(os.environ.get("RYZANSTEIN_FAULT_LANES", "16"))
ONLY = os.environ.get("RYZANSTEIN_FAULT_CASE", "")
"""A part of the title of the cases to run; empty: all."""
CASE_SECONDS = 480.0
Job = Callable[[Lane], None]


class Urgency(IntEnum):
    """Long runs wait most of their time, so half of the lanes take them first, beside those that need the processor."""

    REFERENCE = 0
    LONG = 1
    SHORT = 2


class Jobs:
    """What is to be run, by urgency, in order."""

    def __init__(self) -> None:
        self._waiting: dict[Urgency, deque[Job]] = {urgency: deque() for urgency in Urgency}
        self._changed = threading.Condition()
        self._closed = False

    def put(self, urgency: Urgency, job: Job) -> None:
        with self._changed:
            self._waiting[urgency].append(job)
            self._changed.notify()

    def take(self, long_first: bool) -> Job | None:
        """The next one; waits for it. None once closed: what still waits is dropped."""
        order = sorted(Urgency, key=lambda one: (one != Urgency.REFERENCE, one if long_first else -one))
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._waiting.values()))
            if self._closed:
                return None
            return next(self._waiting[one].popleft() for one in order if self._waiting[one])

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass
class Tally:
    """What is printed in the end."""

    cases: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    unreached: int = 0
    slowest: list[tuple[float, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def take(self, family: str, result: Result) -> None:
        self.runs += 1
        self.cases[family] += result.met
        self.unreached += not result.met
        self.slowest = sorted([*self.slowest, (result.seconds, result.title)], reverse=True)[:5]
        if result.failures:
            self.failed.append(result.title)

    def lines(self) -> list[str]:
        """For the terminal."""
        total = sum(self.cases.values())
        said = [f"{total} cases: " + ", ".join(f"{count} {family}" for family, count in sorted(self.cases.items()))]
        said.append(
            f"{self.runs} runs; {self.unreached} were no case: the run made fewer writes than the longer fault-free one"
        )
        said += [f"slowest: {title} {seconds:.1f} s" for seconds, title in self.slowest]
        return said + [f"failed: {title}" for title in sorted(self.failed)]


class Campaign:
    """Lanes, and the queue that they take from."""

    def __init__(self, lanes: list[Lane], tally: Tally) -> None:
        self.tally = tally
        self._jobs = Jobs()
        self._lock = threading.Lock()
        self._references: dict[str, Future[Reference]] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(lane, index % 2 == 0), name=lane.namespace)
            for index, lane in enumerate(lanes)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let the runs that are under way end; those that wait are dropped."""
        self._jobs.close()
        for thread in self._threads:
            thread.join(CASE_SECONDS)

    def submit(self, family: str, scenario: str) -> "Future[list[Future[Result]]]":
        """Run the cases of a family in a scenario. The outer future is done once the cases are known."""
        known: Future[list[Future[Result]]] = Future()

        def expand(done: "Future[Reference]") -> None:
            try:
                reference = done.result()
                cases = FAMILIES[family].cases(SCENARIOS[scenario], len(reference.writes))
                known.set_result([self._submit_case(family, one, reference) for one in cases if ONLY in one.title])
            except Exception as error:
                known.set_exception(error)

        self.reference(scenario).add_done_callback(expand)
        return known

    def reference(self, scenario: str) -> "Future[Reference]":
        """Two fault-free runs, compared."""
        with self._lock:
            if scenario in self._references:
                return self._references[scenario]
            future = self._references[scenario] = Future()
        runs: list[FaultFree] = []

        def once(lane: Lane) -> None:
            try:
                found = fault_free(lane, SCENARIOS[scenario])
                with self._lock:
                    runs.append(found)
                    both = len(runs) == 2
                if both:
                    future.set_result(compare(*runs))
            except Exception as error:
                if not future.done():
                    future.set_exception(error)

        self._jobs.put(Urgency.REFERENCE, once)
        self._jobs.put(Urgency.REFERENCE, once)
        return future

    def _submit_case(self, family: str, case: Case, reference: Reference) -> "Future[Result]":
        future: Future[Result] = Future()

        def job(lane: Lane) -> None:
            result = run(lane, case, reference)
            self.tally.take(family, result)
            future.set_result(result)

        self._jobs.put(Urgency.LONG if FAMILIES[family].long else Urgency.SHORT, job)
        return future

    def _work(self, lane: Lane, long_first: bool) -> None:
        while (job := self._jobs.take(long_first)) is not None:
            job(lane)


@contextlib.contextmanager
def campaign(directory: Path, tally: Tally, lanes: int = LANES) -> Iterator[Campaign]:
    """A control plane, a recorder, a zygote and so many lanes; everything is ended with the block."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(directory / "apiserver"))
        install_crd(server)
        server.start_controllers()
        kubelet = stack.enter_context(fake_kubelet(server, nodes=4, slots=10_000))
        recorder = stack.enter_context(Recorder(server).running())
        parent = stack.enter_context(zygote())
        host = stack.enter_context(ProxyHost(server).running())
        made = [Lane(f"lane-{n:02}x", server, kubelet, host, recorder, parent, directory) for n in range(lanes)]
        for lane in made:
            lane.open()
            stack.callback(lane.close)
        started = Campaign(made, tally)
        started.start()
        stack.callback(started.end)
        yield started
