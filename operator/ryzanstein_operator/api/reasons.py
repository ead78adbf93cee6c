"""Every reason that a condition or an Event may give, with what it means and what to do about it. Words only."""

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
    NO_SPARE_CAPACITY = "NoSpareCapacity"
    REPLICAS_STARTING = "ReplicasStarting"
    DOWNLOADING = "Downloading"
    PENDING = "Pending"
    SCALING_UP = "ScalingUp"
    SCALED_TO_ZERO = "ScaledToZero"
    # How the size is chosen.
    NOT_CONFIGURED = "NotConfigured"
    METRICS_READ = "MetricsRead"
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    AT_ZERO = "AtZero"
    WITHIN_BOUNDS = "WithinBounds"
    AT_MAXIMUM = "AtMaximum"
    AT_MINIMUM = "AtMinimum"
    ACCELERATOR_BUDGET = "AcceleratorBudget"
    CAPACITY_UNAVAILABLE = "CapacityUnavailable"
    RATE_LIMITED = "RateLimited"
    STABILIZING = "Stabilizing"
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
    POD_NOT_SET_UP = "PodNotSetUp"
    STUCK_TERMINATING = "StuckTerminating"
    PODS_REFUSED = "PodsRefused"
    ROLLOUT_STALLED = "RolloutStalled"
    ACCELERATOR_FAULT = "AcceleratorFault"
    NODE_UNREACHABLE = "NodeUnreachable"
    NODE_NOT_READY = "NodeNotReady"
    REPLICA_UNREACHABLE = "ReplicaUnreachable"
    REPLICA_LAGGING = "ReplicaLagging"
    # Something is wrong with the resource itself.
    INVALID_SPEC = "InvalidSpec"
    MODEL_NAME_TAKEN = "ModelNameTaken"
    NAME_CONFLICT = "NameConflict"
    APPLY_REFUSED = "ApplyRefused"
    # Events alone.
    DRIFT_CORRECTED = "DriftCorrected"
    RESCALED = "Rescaled"
    REQUESTS_WAITING = "RequestsWaiting"
    GROUP_WITHDRAWN = "GroupWithdrawn"
    GROUP_REPLACED = "GroupReplaced"
    NODE_UNHEALTHY = "NodeUnhealthy"
    NODE_RECOVERED = "NodeRecovered"


MEANING: dict[Reason, str] = {
    Reason.ALL_REPLICAS_READY: "Every replica answers requests.",
    Reason.ENDPOINTS_READY: "At least one replica answers requests.",
    Reason.ROLLOUT_COMPLETE: "Every replica runs the latest spec.",
    Reason.IN_IMAGE: "The model is part of the worker's image.",
    Reason.ON_CLAIM: "The model is read from a volume claim.",
    Reason.DOWNLOADED: "The model has been downloaded and its hashes have been checked.",
    Reason.SCHEDULED: "Every replica has a node.",
    Reason.AS_EXPECTED: "No replica is broken.",
    Reason.PREVIOUS_REVISION_SERVES: "Enough replicas of the previous spec answer while those of the new one start.",
    Reason.ROLLING_OUT: "Replicas are being made or exchanged.",
    Reason.NO_SPARE_CAPACITY: "No nodes for one more group of pods: an old one is drained before its successor starts.",
    Reason.REPLICAS_STARTING: "Replicas are on their way up.",
    Reason.DOWNLOADING: "The model is being downloaded.",
    Reason.PENDING: "Nothing is known yet.",
    Reason.SCALING_UP: "More replicas were asked for than answer so far; of those that did before none is missing.",
    Reason.SCALED_TO_ZERO: "No replica is asked for: requests wait for one up to `routing.queueTimeoutSeconds`.",
    Reason.NOT_CONFIGURED: "`spec.autoscaling` is not set: `spec.replicas` is the size.",
    Reason.METRICS_READ: "The targets' metrics are known, and the size follows them.",
    Reason.METRICS_UNAVAILABLE: "A target's metric is missing or cannot be used, so the size is held.",
    Reason.AT_ZERO: "No replica is needed until a request comes.",
    Reason.WITHIN_BOUNDS: "The targets have the size that they call for.",
    Reason.AT_MAXIMUM: "The targets call for more than `maxReplicas`.",
    Reason.AT_MINIMUM: "The targets call for fewer than `minReplicas`.",
    Reason.ACCELERATOR_BUDGET: "The targets call for more than fits into `maxAccelerators`.",
    Reason.CAPACITY_UNAVAILABLE: "Replicas asked for before have no node, so no more are asked for.",
    Reason.RATE_LIMITED: "The policies in `behavior` let the size move no further for now.",
    Reason.STABILIZING: "The stabilization window in `behavior` holds the size until the load has stayed as it is.",
    Reason.RESTARTING: "A replica ended and is being started again.",
    Reason.MODEL_UNUSABLE: "The worker refused the model or its settings; its sentence is in the message.",
    Reason.DOWNLOAD_FAILING: "The download of the model fails; the message says why.",
    Reason.CLAIM_UNAVAILABLE: "A volume claim is missing or not bound.",
    Reason.IMAGE_UNAVAILABLE: "The worker's image cannot be pulled.",
    Reason.CONTAINER_REFUSED: "The container cannot be created, for instance because a Secret is missing.",
    Reason.OUT_OF_MEMORY: "A container was killed because memory ran out.",
    Reason.CRASH_LOOP: "A container ends again and again.",
    Reason.UNSCHEDULABLE: "No node has room; the message holds the scheduler's words.",
    Reason.POD_NOT_SET_UP: "Volumes or the network of a pod have not been set up for a minute.",
    Reason.STUCK_TERMINATING: "A pod that was deleted does not go, and holds its node's resources, accelerators first.",
    Reason.PODS_REFUSED: "Pods may not be created, for instance because of a quota.",
    Reason.ROLLOUT_STALLED: "The rollout has made no progress for 30 minutes.",
    Reason.ACCELERATOR_FAULT: "A replica says that its accelerator is bad; it takes no requests and is replaced.",
    Reason.NODE_UNREACHABLE: "No gateway reaches any replica on a node and its kubelet is silent; they are replaced.",
    Reason.NODE_NOT_READY: "Kubernetes says that a node is not ready; the replicas on it are replaced.",
    Reason.REPLICA_UNREACHABLE: "A replica does not answer the gateways, and gets no requests.",
    Reason.REPLICA_LAGGING: "A replica runs and does not get on, or not fast enough, so it gets no requests.",
    Reason.INVALID_SPEC: "The spec cannot be run; what ran before is left as it is.",
    Reason.MODEL_NAME_TAKEN: "An older InferenceService answers under the same model name.",
    Reason.NAME_CONFLICT: "An object of another owner bears a name that is needed.",
    Reason.APPLY_REFUSED: "The API server refuses an object; the message holds its words.",
    Reason.DRIFT_CORRECTED: "Somebody changed an object of the service, and it was put back.",
    Reason.RESCALED: "The size was changed, because of what the message says.",
    Reason.REQUESTS_WAITING: "Requests wait at the gateway, and no replica takes them.",
    Reason.GROUP_WITHDRAWN: "A group of pods got nodes for some of them only, and was withdrawn to hold nothing.",
    Reason.GROUP_REPLACED: "A pod of a group cannot come back by itself, so another group takes the whole one's place.",
    Reason.NODE_UNHEALTHY: "A node that replicas are on cannot be counted on any more.",
    Reason.NODE_RECOVERED: "A node is well again.",
}

REMEDY: dict[Reason, str] = {
    Reason.ALL_REPLICAS_READY: "",
    Reason.ENDPOINTS_READY: "",
    Reason.ROLLOUT_COMPLETE: "",
    Reason.IN_IMAGE: "",
    Reason.ON_CLAIM: "",
    Reason.DOWNLOADED: "",
    Reason.SCHEDULED: "",
    Reason.AS_EXPECTED: "",
    Reason.PREVIOUS_REVISION_SERVES: "Wait: clients are served. If it stays, `Degraded` names what the new revision "
    "lacks; mend that, or go back with `kubectl apply -f` of the former spec.",
    Reason.ROLLING_OUT: "Wait; `kubectl get rzi NAME -w` shows each step. An old replica may finish its running "
    "requests for up to `spec.disruption.drainSeconds`.",
    Reason.NO_SPARE_CAPACITY: "Nothing: the rollout goes on, with one replica less at a time. For one without, add "
    "nodes for `parallelism.nodes` more pods; `CapacityAvailable` holds the scheduler's words.",
    Reason.REPLICAS_STARTING: "Wait until the model is loaded; `kubectl logs POD -c worker -f` shows how far it is.",
    Reason.DOWNLOADING: "Wait; `kubectl logs POD -c fetch -f` shows each file. With `spec.model.cacheClaim` the next "
    "pod finds them there.",
    Reason.PENDING: "Wait a few seconds. If it stays, look whether the operator is at work (below).",
    Reason.SCALING_UP: "Wait: clients are served meanwhile. If it stays, `CapacityAvailable` and `Degraded` say why.",
    Reason.SCALED_TO_ZERO: "`kubectl scale rzi NAME --replicas=1` when it is to answer again; with `spec.autoscaling` "
    "the next request brings a replica.",
    Reason.NOT_CONFIGURED: "",
    Reason.METRICS_READ: "",
    Reason.METRICS_UNAVAILABLE: "The message names the query and what came back. Check that Prometheus is up and "
    "scrapes the replicas (`kubectl get pods -l app.kubernetes.io/component=prometheus`, or `prometheus.url` in the "
    "chart's values), and try the query in Prometheus itself. The size stays as it is meanwhile.",
    Reason.AT_ZERO: "",
    Reason.WITHIN_BOUNDS: "",
    Reason.AT_MAXIMUM: "Raise `spec.autoscaling.maxReplicas` if there is room for more.",
    Reason.AT_MINIMUM: "Lower `spec.autoscaling.minReplicas` if fewer are enough when there is little to do.",
    Reason.ACCELERATOR_BUDGET: "Raise `spec.autoscaling.maxAccelerators` if the service may have more.",
    Reason.CAPACITY_UNAVAILABLE: "Free or add nodes as the scheduler's words ask, or lower `maxReplicas` to what the "
    "cluster holds; it goes on by itself once the replicas have nodes.",
    Reason.RATE_LIMITED: "Nothing, or more room in `spec.autoscaling.behavior`.",
    Reason.STABILIZING: "Nothing, or a shorter `stabilizationWindowSeconds`.",
    Reason.RESTARTING: "Nothing at the first time: it comes back by itself. If it repeats, "
    "`kubectl logs POD -c worker --previous` has the last words before the end.",
    Reason.MODEL_UNUSABLE: "Change the field of the spec, or the model's files, that the message speaks of; "
    "`kubectl logs POD -c worker --previous` has more.",
    Reason.DOWNLOAD_FAILING: "Check `spec.model.uri` and `revision`, the Secret in `tokenSecret`, and that pods may "
    "reach the hub; `kubectl logs POD -c fetch --previous` has each try.",
    Reason.CLAIM_UNAVAILABLE: "`kubectl get pvc` and `kubectl describe pvc CLAIM`: create the claim, or bind it to a "
    "volume.",
    Reason.IMAGE_UNAVAILABLE: "Correct `spec.template.image`, or let the node pull it: registry, credentials, or with "
    "`imagePullPolicy: Never` load it onto the node.",
    Reason.CONTAINER_REFUSED: "Create what the message names, mostly a Secret or a key of one "
    "(`kubectl get secret`); the kubelet then goes on by itself.",
    Reason.OUT_OF_MEMORY: "Raise `spec.resources` as the message says, or ask for less with `spec.engine.maxModelLen` "
    "or `kvCacheMemory`.",
    Reason.CRASH_LOOP: "`kubectl logs POD -c worker --previous` says why it ends; undo the last change of the spec if "
    "it ran before.",
    Reason.UNSCHEDULABLE: "Free or add a node that has what the message misses, or ask for less: `spec.resources`, "
    "`parallelism`, `template.nodeSelector`, `replicas`. `kubectl describe node` shows what is taken.",
    Reason.POD_NOT_SET_UP: "`kubectl describe pod POD`: its Events (`FailedMount`, `FailedAttachVolume`, "
    "`FailedCreatePodSandBox`) say which volume or network, and why. It goes on by itself once that is mended.",
    Reason.STUCK_TERMINATING: "`kubectl get node` first. A node that is coming back ends the pod by itself. When it "
    "is surely off, `kubectl delete node NODE` frees the pod; the operator never deletes by force, for a node that is "
    "only cut off may still run it. For a finalizer, ask whoever set it.",
    Reason.PODS_REFUSED: "Raise the quota (`kubectl describe quota`) or change the policy that the message names, or "
    "ask for less.",
    Reason.ROLLOUT_STALLED: "Mend what the message names; the rollout goes on by itself. To give it up, apply the "
    "former spec again.",
    Reason.INVALID_SPEC: "Correct the field that the message names with `kubectl edit rzi NAME`; what ran before keeps "
    "running meanwhile.",
    Reason.MODEL_NAME_TAKEN: "Delete one of the two services, or create this one anew under another `spec.model.name`.",
    Reason.NAME_CONFLICT: "Delete the object that the message names if nobody needs it, or create the service under "
    "another name.",
    Reason.APPLY_REFUSED: "Change what the API server complains of: the policy or quota that refuses, or the "
    "operator's Role (`helm upgrade` renews it). It is tried again by itself, within two minutes.",
    Reason.ACCELERATOR_FAULT: "Have the node's accelerator looked at; `kubectl logs POD -c worker` has the driver's "
    "words. Then `kubectl taint node NODE ryzanstein.dev/unhealthy-`, if it bears that taint.",
    Reason.NODE_UNREACHABLE: "Nothing for the service: its replicas are made elsewhere. `kubectl describe node NODE`; "
    "bring the machine back, or take it out with `kubectl delete node NODE`, which frees the pods that hang there.",
    Reason.NODE_NOT_READY: "`kubectl describe node NODE` has Kubernetes' own words; bring the node back, or take it "
    "out with `kubectl delete node NODE`, which frees the pods that hang there.",
    Reason.REPLICA_UNREACHABLE: "Wait a few seconds: it is restarted, or its node is given up. If it stays, see "
    "`kubectl describe pod POD` and whether the network lets the gateways' pods reach it.",
    Reason.REPLICA_LAGGING: "Nothing at first: a rank that hangs is restarted within a minute. If it repeats, "
    "`kubectl logs POD -c worker` says which rank; on CPU, raise `spec.resources`.",
    Reason.NODE_UNHEALTHY: "As for the reason in the message.",
    Reason.NODE_RECOVERED: "Nothing.",
    Reason.GROUP_WITHDRAWN: "Free or add nodes for all pods of one group; the message holds the scheduler's words, and "
    "when it is tried again. `spec.parallelism.placementTimeoutSeconds` is how long a group may wait for them.",
    Reason.GROUP_REPLACED: "Nothing: the replacement is on its way. See what became of the node that the message "
    "names.",
    Reason.DRIFT_CORRECTED: "Make the change in the InferenceService instead; "
    "`kubectl get OBJECT --show-managed-fields -o yaml` tells who made it.",
    Reason.RESCALED: "",
    Reason.REQUESTS_WAITING: "`kubectl scale rzi NAME --replicas=1` where it is scaled to zero; else `Serving` says "
    "what keeps the replicas from answering.",
}
"""What a person does about it; empty where all is well. NAME is the InferenceService, POD a pod that the message
names."""

BROKEN = (
    Reason.MODEL_UNUSABLE,
    Reason.CONTAINER_REFUSED,
    Reason.IMAGE_UNAVAILABLE,
    Reason.CLAIM_UNAVAILABLE,
    Reason.DOWNLOAD_FAILING,
    Reason.OUT_OF_MEMORY,
    Reason.ACCELERATOR_FAULT,
    Reason.CRASH_LOOP,
    Reason.PODS_REFUSED,
    Reason.UNSCHEDULABLE,
    Reason.NODE_UNREACHABLE,
    Reason.NODE_NOT_READY,
    Reason.POD_NOT_SET_UP,
    Reason.RESTARTING,
    Reason.REPLICA_UNREACHABLE,
    Reason.REPLICA_LAGGING,
)
"""What may be wrong with a replica, that which only the user can mend first."""
BLOCKED = (Reason.INVALID_SPEC, Reason.NAME_CONFLICT, Reason.APPLY_REFUSED)

EVENTS = (
    Reason.DRIFT_CORRECTED,
    Reason.RESCALED,
    Reason.REQUESTS_WAITING,
    Reason.NODE_UNHEALTHY,
    Reason.NODE_RECOVERED,
    Reason.GROUP_WITHDRAWN,
    Reason.GROUP_REPLACED,
)
"""What Events (and `status.lastFailure`) alone may give."""

REASONS: dict[ConditionType, tuple[Reason, ...]] = {
    ConditionType.READY: (
        Reason.ALL_REPLICAS_READY,
        Reason.PREVIOUS_REVISION_SERVES,
        Reason.ROLLING_OUT,
        Reason.SCALING_UP,
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
    ConditionType.PROGRESSING: (
        Reason.ROLLOUT_COMPLETE,
        Reason.ROLLING_OUT,
        Reason.NO_SPARE_CAPACITY,
        Reason.ROLLOUT_STALLED,
        *BLOCKED,
    ),
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
    ConditionType.SCALING_ACTIVE: (
        Reason.METRICS_READ,
        Reason.AT_ZERO,
        Reason.METRICS_UNAVAILABLE,
        Reason.PENDING,
        Reason.NOT_CONFIGURED,
        Reason.INVALID_SPEC,
    ),
    ConditionType.SCALING_LIMITED: (
        Reason.WITHIN_BOUNDS,
        Reason.AT_MAXIMUM,
        Reason.AT_MINIMUM,
        Reason.ACCELERATOR_BUDGET,
        Reason.CAPACITY_UNAVAILABLE,
        Reason.RATE_LIMITED,
        Reason.STABILIZING,
        Reason.PENDING,
        Reason.NOT_CONFIGURED,
        Reason.INVALID_SPEC,
    ),
    ConditionType.DEGRADED: (
        Reason.AS_EXPECTED,
        Reason.ROLLOUT_STALLED,
        Reason.STUCK_TERMINATING,
        *BLOCKED,
        *BROKEN,
    ),
}
"""Which reasons each condition may give: held by a test, printed by the reference."""
