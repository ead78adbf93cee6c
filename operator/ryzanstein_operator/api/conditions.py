"""Condition types and their reasons: what a status may say. Knows words; knows nothing of how they are found out."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from ryzanstein_operator.api.wire import Wire

Status = Literal["True", "False", "Unknown"]


class ConditionType(StrEnum):
    """Every condition of an InferenceService, each set from the first visit on."""

    READY = "Ready"
    SERVING = "Serving"
    PROGRESSING = "Progressing"
    MODEL_CACHED = "ModelCached"
    CAPACITY_AVAILABLE = "CapacityAvailable"
    SCALING_ACTIVE = "ScalingActive"
    SCALING_LIMITED = "ScalingLimited"
    DEGRADED = "Degraded"


class Condition(Wire):
    """One statement about the service, as metav1.Condition."""

    type: ConditionType
    """What the statement is about."""
    status: Status
    """True, False or Unknown."""
    reason: str = Field(max_length=64)
    """The cause in one CamelCase word."""
    message: str = Field(max_length=1024)
    """The cause in words."""
    observed_generation: int = Field(ge=0)
    """The generation of the spec that the statement is about."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"}, max_length=32)
    """When the status last changed, RFC 3339 in UTC."""
