"""What Kubernetes and the hub take for names, as patterns that read the same in CEL (RE2) and in Python."""

import re
from typing import Any

from ryzanstein_operator.api.wire import Rule

DNS_LABEL = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SERVICE_NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
KEY_OF_SECRET = "^[-._a-zA-Z0-9]+$"  # noqa: S105 (a pattern, no secret)
LABEL_KEY = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LABEL_VALUE = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
HUB_REPO = "^hf://[A-Za-z0-9][-A-Za-z0-9_.]*/[A-Za-z0-9][-A-Za-z0-9_.]*$"
CLAIM = "^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?$"
CLIMBS = "(^|/)[.][.](/|$)"
PATH = "^[-A-Za-z0-9_./:+@]*$"
REVISION = "^[A-Za-z0-9][-A-Za-z0-9_./]*$"
MODEL_NAME = "^[A-Za-z0-9][-A-Za-z0-9_./:]*$"
ACCELERATOR = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
IMAGE = (
    "^[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    "(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@sha256:[a-f0-9]{64})?$"
)


def matches(regex: str, value: str | None) -> bool:
    """As CEL's `matches`, which searches; the patterns carry their own anchors. An absent value passes."""
    # RE2's $ is the end of the text; Python's would also match before a last newline.
    return value is None or re.search(regex.replace("$", r"\Z"), value) is not None


def pattern(field: str, attribute: str, regex: str, message: str, *, optional: bool = True) -> Rule:
    """The rule that a string field matches; `attribute` is the field's name in Python, `field` on the wire."""

    def holds(value: Any) -> bool:
        return matches(regex, getattr(value, attribute))

    test = f"self.{field}.matches('{regex}')"
    return Rule(f"!has(self.{field}) || {test}" if optional else test, message, holds, field)
