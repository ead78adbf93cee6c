"""One InferenceService of the tables that the Python rules and a real API server are both held to."""

from dataclasses import dataclass, field
from typing import Any

HUB = {"uri": "hf://Qwen/Qwen3-8B"}
DEMO = {"uri": "demo://"}


@dataclass(frozen=True)
class Case:
    """A spec (the demo model where it names none) and a part of the sentence with which it is refused.

    schema: the API server refuses it by a bound or an enum, in its own words; `plan` refuses it in pydantic's.
    """

    title: str
    sentence: str
    spec: dict[str, Any] = field(default_factory=dict)
    name: str = "chat"
    schema: bool = False

    @property
    def manifest(self) -> dict[str, Any]:
        return {
            "apiVersion": "ryzanstein.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": self.name},
            "spec": {"model": DEMO, **self.spec},
        }
