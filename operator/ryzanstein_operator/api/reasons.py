"""Every reason that a condition or an Event may give, with the sentence that the reference prints. Words only."""

from enum import StrEnum

from ryzanstein_operator.api.conditions import ConditionType


class Reason(StrEnum):
    """The cause of a condition's status in one word."""

    # All is as it should be.
    ALL_REPLICAS_READY = "AllReplicasReady"
    ENDPOINTS_READY = "EndpointsReady"
    ROLLOUT_COMPLETE = "RolloutComplete"
    IN_IMAGE = "InImage"
    ON_CLAIM = "OnClaim"
    DOWNLOADED = "Downloaded"
    SCHEDULED = "Scheduled"
    AS_EXPECTED = "AsExpected"
    # On the way.
    PREVIOUS_REVISION_SERVES = "PreviousRevisionServes"
    ROLLING_OUT = "RollingOut"
    REPLICAS_STARTING = "ReplicasStarting"
    DOWNLOADING = "Downloading"
    PENDING = "Pending"
    SCALED_TO_ZERO = "ScaledToZero"
    # Something is wrong with one or more replicas.
    RESTARTING = "Restarting"
    MODEL_UNUSABLE = "ModelUnusable"
    DOWNLOAD_FAILING = "DownloadFailing"
    CLAIM_UNAVAILABLE = "ClaimUnavailable"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    CONTAINER_REFUSED = "ContainerRefused"
    OUT_OF_MEMORY = "OutOfMemory"
    CRASH_LOOP = "CrashLoop"
    UNSCHEDULABLE = "Unschedulable"
    PODS_REFUSED = "PodsRefused"
    ROLLOUT_STALLED = "RolloutStalled"
    # Something is wrong with the resource itself.
    INVALID_SPEC = "InvalidSpec"
    MODEL_NAME_TAKEN = "ModelNameTaken"
    NAME_CONFLICT = "NameConflict"
    APPLY_REFUSED = "ApplyRefused"
    # Events alone.
    DRIFT_CORRECTED = "DriftCorrected"
    REQUESTS_WAITING = "RequestsWaiting"


MEANING: dict[Reason, str] = {
    Reason.ALL_REPLICAS_READY: "Every replica answers requests.",
    Reason.ENDPOINTS_READY: "At least one replica answers requests.",
    Reason.ROLLOUT_COMPLETE: "Every replica runs the latest spec.",
    Reason.IN_IMAGE: "The model is part of the worker's image.",
    Reason.ON_CLAIM: "The model is read from a volume claim.",
    Reason.DOWNLOADED: "The model has been downloaded and its hashes have been checked.",
    Reason.SCHEDULED: "Every replica has a node.",
    Reason.AS_EXPECTED: "No replica is broken.",
    Reason.PREVIOUS_REVISION_SERVES: "Replicas of the previous spec answer all requests while the new ones start.",
    Reason.ROLLING_OUT: "Replicas are being made or exchanged.",
    Reason.REPLICAS_STARTING: "Replicas are on their way up.",
    Reason.DOWNLOADING: "The model is being downloaded.",
    Reason.PENDING: "Nothing is known yet.",
    Reason.SCALED_TO_ZERO: "No replica is asked for: requests wait for one up to `routing.queueTimeoutSeconds`.",
    Reason.RESTARTING: "A replica ended and is being started again.",
    Reason.MODEL_UNUSABLE: "The worker refused the model or its settings; its sentence is in the message.",
    Reason.DOWNLOAD_FAILING: "The download of the model fails; the message says why.",
    Reason.CLAIM_UNAVAILABLE: "A volume claim is missing or not bound.",
    Reason.IMAGE_UNAVAILABLE: "The worker's image cannot be pulled.",
    Reason.CONTAINER_REFUSED: "The container cannot be created, for instance because a Secret is missing.",
    Reason.OUT_OF_MEMORY: "A container was killed because memory ran out.",
    Reason.CRASH_LOOP: "A container ends again and again.",
    Reason.UNSCHEDULABLE: "No node has room; the message holds the scheduler's words.",
    Reason.PODS_REFUSED: "Pods may not be created, for instance because of a quota.",
    Reason.ROLLOUT_STALLED: "The rollout has made no progress for 30 minutes.",
    Reason.INVALID_SPEC: "The spec cannot be run; what ran before is left as it is.",
    Reason.MODEL_NAME_TAKEN: "An older InferenceService answers under the same model name.",
    Reason.NAME_CONFLICT: "An object of another owner bears a name that is needed.",
    Reason.APPLY_REFUSED: "The API server refuses an object; the message holds its words.",
    Reason.DRIFT_CORRECTED: "Somebody changed an object of the service, and it was put back.",
    Reason.REQUESTS_WAITING: "Requests wait at the gateway, and no replica takes them.",
}

BROKEN = (
    Reason.MODEL_UNUSABLE,
    Reason.CONTAINER_REFUSED,
    Reason.IMAGE_UNAVAILABLE,
    Reason.CLAIM_UNAVAILABLE,
    Reason.DOWNLOAD_FAILING,
    Reason.OUT_OF_MEMORY,
    Reason.CRASH_LOOP,
    Reason.PODS_REFUSED,
    Reason.UNSCHEDULABLE,
    Reason.RESTARTING,
)
"""What may be wrong with a replica, that which only the user can mend first."""
BLOCKED = (Reason.INVALID_SPEC, Reason.NAME_CONFLICT, Reason.APPLY_REFUSED)

EVENTS = (Reason.DRIFT_CORRECTED, Reason.REQUESTS_WAITING)
"""What Events alone may give."""

REASONS: dict[ConditionType, tuple[Reason, ...]] = {
    ConditionType.READY: (
        Reason.ALL_REPLICAS_READY,
        Reason.PREVIOUS_REVISION_SERVES,
        Reason.REPLICAS_STARTING,
        Reason.SCALED_TO_ZERO,
        Reason.MODEL_NAME_TAKEN,
        *BLOCKED,
        *BROKEN,
    ),
    ConditionType.SERVING: (
        Reason.ENDPOINTS_READY,
        Reason.REPLICAS_STARTING,
        Reason.SCALED_TO_ZERO,
        Reason.MODEL_NAME_TAKEN,
        *BLOCKED,
        *BROKEN,
    ),
    ConditionType.PROGRESSING: (Reason.ROLLOUT_COMPLETE, Reason.ROLLING_OUT, Reason.ROLLOUT_STALLED, *BLOCKED),
    ConditionType.MODEL_CACHED: (
        Reason.IN_IMAGE,
        Reason.ON_CLAIM,
        Reason.DOWNLOADED,
        Reason.DOWNLOADING,
        Reason.DOWNLOAD_FAILING,
        Reason.CLAIM_UNAVAILABLE,
        Reason.PENDING,
        Reason.INVALID_SPEC,
    ),
    ConditionType.CAPACITY_AVAILABLE: (
        Reason.SCHEDULED,
        Reason.UNSCHEDULABLE,
        Reason.PODS_REFUSED,
        Reason.CLAIM_UNAVAILABLE,
        Reason.SCALED_TO_ZERO,
        Reason.PENDING,
        Reason.INVALID_SPEC,
    ),
    ConditionType.DEGRADED: (Reason.AS_EXPECTED, Reason.ROLLOUT_STALLED, *BLOCKED, *BROKEN),
}
"""Which reasons each condition may give: held by a test, printed by the reference."""
