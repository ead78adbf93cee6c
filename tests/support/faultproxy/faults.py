"""What can be done to a call, and to which: data that the proxy carries out."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from faultproxy.calls import Call, Kind


@dataclass(frozen=True)
class Answer:
    """The API server is not asked; the operator is answered `status`."""

    status: int
    retry_after: int = 0

    def __str__(self) -> str:
        return f"answered {self.status}"


@dataclass(frozen=True)
class Kill:
    """The operator gets SIGKILL `before` the call is forwarded, or `after` the API server has carried it out; it gets
    no answer in either case."""

    when: Literal["before", "after"]

    def __str__(self) -> str:
        return f"killed {self.when}"


@dataclass(frozen=True)
class Abort:
    """The connection is reset `before` the call is forwarded, or `after` the API server has carried it out."""

    when: Literal["before", "after"] = "before"

    def __str__(self) -> str:
        return f"reset {self.when}"


@dataclass(frozen=True)
class Freeze:
    """The operator gets SIGSTOP; the call is neither forwarded nor answered."""

    def __str__(self) -> str:
        return "frozen"


Fault = Answer | Kill | Abort | Freeze


@dataclass
class Rule:
    """`fault` for the calls that `meets` says, at most `times` of them."""

    meets: Callable[[Call], bool]
    fault: Fault
    times: float = float("inf")

    def take(self, call: Call) -> bool:
        """Whether `call` meets the fault; counts it."""
        if self.times <= 0 or not self.meets(call):
            return False
        self.times -= 1
        return True


def on_write(number: int, fault: Fault) -> Rule:
    """The write of this number, once."""
    return Rule(lambda call: call.write == number, fault, times=1)


def nth(number: int, kind: Kind, fault: Fault) -> Rule:
    """The `number`-th call of a kind from now on, once."""
    seen = itertools.count(1)
    return Rule(lambda call: call.kind is kind and next(seen) == number, fault, times=1)


def every(fault: Fault, *kinds: Kind) -> Rule:
    """All calls, or those of some kinds."""
    return Rule(lambda call: not kinds or call.kind in kinds, fault)
