"""`plan`: what the operator would do now, or with the specs of a file. Writes nothing."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from ryzanstein_kubectl.cluster.look import Scope, services_of
from ryzanstein_kubectl.cluster.planning import Operator, observe, operator_of, routes_of, services_seen
from ryzanstein_kubectl.cluster.session import Session
from ryzanstein_kubectl.commands.common import access_of
from ryzanstein_kubectl.model.changes import Change, changes
from ryzanstein_kubectl.model.concerns import concerns
from ryzanstein_kubectl.model.errors import CommandError
from ryzanstein_kubectl.model.tree import Concern
from ryzanstein_kubectl.view.plan_view import plan_view
from ryzanstein_kubectl.view.terminal import console, to_json
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.client import ApiError
from ryzanstein_operator.decide.plan import PatchStatus, Plan
from ryzanstein_operator.decide.reconcile import reconcile, reconcile_routes
from ryzanstein_operator.plan import InputError, plan_services, read_services
from ryzanstein_operator.settings import Settings

HELP = "show what the operator would do, in words and as a diff: for a service as it is, or for a file"
EXAMPLES = """Exit status: 0 no change, 1 changes, 2 an error.

examples:
  kubectl ryzanstein plan chat                        what is left to do for a service
  kubectl ryzanstein plan -f chat.yaml                what applying the file would lead to
  kubectl ryzanstein plan -f chat.yaml --offline      all that is made of it, in an empty cluster
"""
EXIT_CHANGES = 1
EXIT_ERROR = 2


@dataclass(frozen=True)
class Answer:
    """All that is told."""

    changes: tuple[Change, ...]
    concerns: tuple[Concern, ...] = ()
    notes: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="an InferenceService of the cluster")
    parser.add_argument("-f", "--file", action="append", help="YAML or JSON; - reads standard input")
    parser.add_argument("--offline", action="store_true", help="ask no cluster; only with -f")
    parser.add_argument("--operator-namespace", default="", help="where the operator runs, if it is not found")
    parser.add_argument("--worker-image", default="ryzanstein/worker:dev", help="with --offline, default: %(default)s")


async def run(arguments: argparse.Namespace) -> int:
    if bool(arguments.name) == bool(arguments.file):
        raise CommandError("Give either the NAME of a service or -f FILE.")
    if arguments.offline and not arguments.file:
        raise CommandError("--offline needs -f FILE.")
    answer = _offline(arguments) if arguments.offline else await _online(arguments)
    if arguments.output == "json":
        print(to_json(answer))
    else:
        terminal = console()
        for line in plan_view(answer.changes, answer.concerns, answer.notes):
            terminal.print(line, soft_wrap=True)
    return EXIT_CHANGES if answer.changes else 0


def _files(arguments: argparse.Namespace, namespace: str) -> list[Manifest]:
    try:
        found = [service for name in arguments.file for service in read_services(name, namespace)]
    except InputError as error:
        raise CommandError(str(error)) from error
    if not found:
        raise CommandError(f"{', '.join(arguments.file)}: holds no InferenceService")
    return found


def _offline(arguments: argparse.Namespace) -> Answer:
    settings = Settings(
        namespace=arguments.operator_namespace or "ryzanstein",
        worker_image=arguments.worker_image,
        gateway_labels={"app.kubernetes.io/component": "gateway"},
    )
    plan = plan_services(_files(arguments, arguments.namespace or "default"), settings)
    return Answer(changes(plan, ()), notes=("Planned for an empty cluster.",))


async def _online(arguments: argparse.Namespace) -> Answer:
    session = await Session.open(access_of(arguments))
    try:
        if arguments.name:
            wanted = list(await services_of(session, Scope(session.namespace, arguments.name)))
        else:
            wanted = [await _as_applied(session, one) for one in _files(arguments, session.namespace)]
        places = {service["metadata"]["namespace"] for service in wanted}
        operators = {place: await operator_of(session, place, arguments.operator_namespace) for place in places}
        answers = [await _plan(session, one, wanted, operators[one["metadata"]["namespace"]]) for one in wanted]
        distinct = {one.settings.namespace: one for one in operators.values()}
        answers += [await _plan_routes(session, wanted, one) for one in distinct.values()]
    finally:
        await session.close()
    return Answer(
        tuple(change for answer in answers for change in answer.changes),
        tuple(concern for answer in answers for concern in answer.concerns),
        tuple(dict.fromkeys(note for answer in answers for note in answer.notes)),
    )


async def _as_applied(session: Session, document: Manifest) -> Manifest:
    """The service as the API server would have it after an apply: what lives, with the document's spec."""
    place = Scope(document["metadata"]["namespace"], document["metadata"]["name"])
    try:
        (live,) = await services_of(session, place)
    except CommandError:
        return document  # there is none yet
    return {**live, "spec": document["spec"]}


async def _plan(session: Session, service: Manifest, wanted: Sequence[Manifest], operator: Operator) -> Answer:
    settings = operator.settings
    others = _with(await services_seen(session, settings, service["metadata"]["namespace"]), wanted)
    observed = await observe(session, service, others, settings)
    now = datetime.now(UTC)
    plan = reconcile(observed, settings, now)
    notes = []
    if operator.version and operator.version != version("ryzanstein"):
        notes.append(f"The operator is version {operator.version}, this plugin {version('ryzanstein')}: it may differ.")
    told = [concern for concern in concerns(_with_status(service, plan), now) if concern.mood == "bad"]
    return Answer(changes(plan, observed.children), tuple(told), tuple(notes))


def _with_status(service: Manifest, plan: Plan) -> Manifest:
    """The service with the status that the plan would give it."""
    found = [action.status for action in plan.actions if isinstance(action, PatchStatus)]
    return {**service, "status": found[0]} if found else service


async def _plan_routes(session: Session, wanted: Sequence[Manifest], operator: Operator) -> Answer:
    """The gateway's route table: over all services, so only where all of them may be read."""
    settings = operator.settings
    try:
        seen = [await services_of(session, Scope(place)) for place in settings.watch_namespaces or ("",)]
        live = await routes_of(session, settings)
    except ApiError as error:
        if error.status != 403:
            raise
        return Answer((), notes=("The gateway's route table is not planned: you may not read all that it needs.",))
    services = _with([service for found in seen for service in found], wanted)
    plan = reconcile_routes(services, live, settings)
    return Answer(changes(plan, [live] if live else []))


def _with(seen: Sequence[Manifest], wanted: Sequence[Manifest]) -> list[Manifest]:
    """The services seen, those wanted in the place of what they are now."""
    found = {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in (*seen, *wanted)}
    return list(found.values())
