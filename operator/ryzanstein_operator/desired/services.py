"""What makes the workers findable and gives them a name of their own: Service and ServiceAccount. Pure."""

from ryzanstein_operator.api.inference_service import InferenceService
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.metadata import manifest
from ryzanstein_worker.contract import API_PORT, GRPC_PORT, HEALTH_PORT


def workers_service(service: InferenceService) -> Manifest:
    """The headless Service: the gateway reads its EndpointSlices and chooses a worker itself."""
    ports = [_port("api", API_PORT), _port("health", HEALTH_PORT), _port("grpc", GRPC_PORT, "kubernetes.io/h2c")]
    spec = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "selector": names.selector(service.metadata.name),
        "ports": ports,
    }
    return manifest("v1", "Service", service, {"spec": spec})


def _port(name: str, number: int, speaks: str = "http") -> Manifest:
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP", "appProtocol": speaks}


def service_account(service: InferenceService) -> Manifest:
    """An account with no rights and no token: workers never speak to the API server."""
    return manifest("v1", "ServiceAccount", service, {"automountServiceAccountToken": False})
