"""`python -m ryzanstein_operator plan -f FILE`: what the operator would do, without a cluster. Reads files, prints.

Knows documents and formats; every decision is `decide`'s.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ryzanstein_operator.api.inference_service import KIND, InferenceService
from ryzanstein_operator.api.wire import Manifest, SpecError, parse
from ryzanstein_operator.decide.observed import Observed
from ryzanstein_operator.decide.plan import Apply, Plan
from ryzanstein_operator.decide.reconcile import reconcile, reconcile_routes
from ryzanstein_operator.settings import Settings
from ryzanstein_worker.contract import API_GROUP, API_VERSION

EXIT_BAD_INPUT = 2
_API = f"{API_GROUP}/{API_VERSION}"
_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)


class InputError(Exception):
    """A file cannot be planned. The text is one sentence for the user."""


def main(argv: Sequence[str]) -> int:
    """Prints the Plan for each InferenceService of the files. Returns the exit status: 2 for a bad file."""
    arguments = _parser().parse_args(argv)
    try:
        services = [service for name in arguments.file for service in read_services(name, arguments.namespace)]
        if not services:
            raise InputError(f"{', '.join(arguments.file)}: holds no {KIND}")
        settings = _settings(arguments)
        plan = plan_services(services, settings)
    except InputError as error:
        print(f"plan: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(_FORMATS[arguments.output](plan), end="")
    return 0


def plan_services(services: Sequence[Manifest], settings: Settings) -> Plan:
    """The Plan for services in an empty cluster: all of theirs, and the route table over them."""
    plans = [reconcile(Observed(service, services=tuple(services)), settings, _BEFORE_ALL) for service in services]
    plans.append(reconcile_routes(services, None, settings))
    return Plan(tuple(action for plan in plans for action in plan.actions))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("ryzanstein_operator plan", description="Show what a file would lead to.")
    parser.add_argument("-f", "--file", action="append", required=True, help="YAML or JSON; - reads standard input")
    parser.add_argument("-o", "--output", choices=sorted(_FORMATS), default="text", help="default: %(default)s")
    parser.add_argument("-n", "--namespace", default="default", help="for documents that name none")
    parser.add_argument("--release-namespace", default="ryzanstein", help="where operator and gateway run")
    parser.add_argument("--worker-image", default="ryzanstein/worker:dev", help="default: %(default)s")
    parser.add_argument("--gateway-url", default="", help="base of status.url")
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(
        namespace=arguments.release_namespace,
        worker_image=arguments.worker_image,
        gateway_url=arguments.gateway_url.rstrip("/"),
        gateway_labels={"app.kubernetes.io/component": "gateway"},
    )


def read_services(name: str, namespace: str) -> list[Manifest]:
    """The InferenceServices of one file, each held to the same rules as by the API server. Raises InputError."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name}: is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise InputError(f"{name}: is not YAML: {' '.join(str(error).split())}") from None
    found = [document for document in documents if _is_service(name, document)]
    return [_checked(name, document, namespace) for document in found]


def _is_service(name: str, document: Any) -> bool:
    """Whether a document is for us; other kinds in the same file are not. Raises InputError for what is no object."""
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise InputError(f"{name}: holds a document that is no Kubernetes object (it has no kind)")
    if document["kind"] != KIND:
        return False
    if document.get("apiVersion") != _API:
        raise InputError(f"{name}: {KIND} is of apiVersion {document.get('apiVersion')}; this operator knows {_API}")
    return True


def _checked(name: str, document: Manifest, namespace: str) -> Manifest:
    try:
        service = parse(InferenceService, document)
    except SpecError as error:
        raise InputError(f"{name}: {error}") from None
    metadata = {"name": service.metadata.name, "namespace": document["metadata"].get("namespace") or namespace}
    return {"apiVersion": _API, "kind": KIND, "metadata": metadata, "spec": document["spec"]}


def _text(plan: Plan) -> str:
    return "".join(f"- {line}\n" for line in plan.details)


def _yaml(plan: Plan) -> str:
    """The manifests to apply, ready for kubectl."""
    return dump([action.manifest for action in plan.actions if isinstance(action, Apply)])


class _Dumper(yaml.SafeDumper):
    """Quotes also what only other readers of YAML take for a number, such as 9218e73041: kubectl is one of them."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def dump(manifests: Sequence[Manifest]) -> str:
    """YAML documents that kubectl and linters read as they are meant."""
    return str(yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, explicit_start=True))


def _json(plan: Plan) -> str:
    actions = [{"action": type(action).__name__, **asdict(action)} for action in plan.actions]
    return json.dumps({"details": plan.details, "actions": actions}, indent=2) + "\n"


_FORMATS = {"json": _json, "text": _text, "yaml": _yaml}
