"""What makes the workers findable and gives them a name of their own: Service and ServiceAccount. Pure."""

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.metadata import manifest
from ryzanstein_worker.contract import API_PORT, GROUP_PORT, GRPC_PORT, HEALTH_PORT


def workers_service(service: InferenceService) -> Manifest:
    """The headless Service: the gateway reads its EndpointSlices and chooses a worker itself. Of a group, the first pod
    alone is in it."""
    ports = [_port("api", API_PORT), _port("health", HEALTH_PORT), _port("grpc", GRPC_PORT, "kubernetes.io/h2c")]
    spec = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "selector": names.replica_selector(service.metadata.name, service.spec.parallelism.nodes),
        "ports": ports,
    }
    return manifest("v1", "Service", service, {"spec": spec})


def group_service(service: InferenceService) -> Manifest:
    """The headless Service under which the pods of groups find one another: before they are ready, or none ever was."""
    name = service.metadata.name
    spec = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": names.selector(name),
        "ports": [{"name": "group", "port": GROUP_PORT, "targetPort": "group", "protocol": "TCP"}],
    }
    return manifest("v1", "Service", service, {"spec": spec}, name=names.group_service(name))


def _port(name: str, number: int, speaks: str = "http") -> Manifest:
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP", "appProtocol": speaks}


def service_account(service: InferenceService) -> Manifest:
    """An account with no rights and no token: workers never speak to the API server."""
    return manifest("v1", "ServiceAccount", service, {"automountServiceAccountToken": False})
