"""What is wrong with a pod template, by Pod Security `restricted` and by our own stricter bar. Pure.

Beyond `restricted`: a read-only root, a UID above any host's, bounded scratch volumes, requests and limits, no token
but a projected short-lived one. Source of the first part: the Pod Security Standards of kubernetes.io.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Manifest = Mapping[str, Any]

LOWEST_UID = 10000
LONGEST_TOKEN_SECONDS = 3600
VOLUME_KINDS = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
HOST_FIELDS = ("hostNetwork", "hostPID", "hostIPC", "hostUsers")


def complaints(template: Manifest, *, may_have_token: bool = False) -> list[str]:
    """A sentence for each fault of a pod template."""
    spec = template["spec"]
    found = list(_pod(spec)) + [fault for volume in spec.get("volumes") or () for fault in _volume(volume)]
    for container in (*spec["containers"], *(spec.get("initContainers") or ())):
        found += [f"{container['name']}: {fault}" for fault in _container(container, spec.get("securityContext") or {})]
    if not may_have_token and any(_token_sources(volume) for volume in spec.get("volumes") or ()):
        found.append("mounts an API token")
    return found


def _pod(spec: Manifest) -> Iterator[str]:
    yield from (f"{field} is set" for field in HOST_FIELDS if spec.get(field))
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    if spec.get("enableServiceLinks") is not False:
        yield "enableServiceLinks is not false"
    if (spec.get("securityContext") or {}).get("sysctls"):
        yield "sets sysctls"
    if "serviceAccountName" not in spec:
        yield "runs as the namespace's default service account"


def _volume(volume: Manifest) -> Iterator[str]:
    (kind,) = set(volume) - {"name"}
    if kind not in VOLUME_KINDS:
        yield f"volume {volume['name']} is a {kind}"
    if kind == "emptyDir" and "sizeLimit" not in (volume["emptyDir"] or {}):
        yield f"volume {volume['name']} has no sizeLimit"
    for source in _token_sources(volume):
        if source.get("expirationSeconds", 3600) > LONGEST_TOKEN_SECONDS:
            yield f"volume {volume['name']} holds a long-lived token"


def _token_sources(volume: Manifest) -> list[Manifest]:
    sources = (volume.get("projected") or {}).get("sources") or ()
    return [source["serviceAccountToken"] for source in sources if "serviceAccountToken" in source]


def _container(container: Manifest, pod: Manifest) -> Iterator[str]:
    own = container.get("securityContext") or {}
    both = {**pod, **own}
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if not isinstance(both.get("runAsUser"), int) or both["runAsUser"] < LOWEST_UID:
        yield f"runAsUser is not at least {LOWEST_UID}"
    if (both.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        yield "seccompProfile is not RuntimeDefault"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("privileged"):
        yield "is privileged"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "the root file system is writable"
    capabilities = own.get("capabilities") or {}
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield "does not drop ALL capabilities and add none"
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        yield "takes a port of the host"
    yield from _resources(container.get("resources") or {})


def _resources(resources: Manifest) -> Iterator[str]:
    for part, names in (("requests", ("cpu", "memory")), ("limits", ("memory",))):
        # Kubernetes takes a limit for the request that is not there.
        given = {*(resources.get(part) or ()), *(resources.get("limits") or ())}
        yield from (f"has no {name} in {part}" for name in names if name not in given)
