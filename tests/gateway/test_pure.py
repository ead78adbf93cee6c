"""The pure parts by table: EndpointSlices, the route table, the settings."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ryzanstein_gateway.balance import Endpoint
from ryzanstein_gateway.endpoints import EndpointSlice, EndpointStore, merge_slices
from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.replica_state import SHUN_SECONDS
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.settings import Settings, SettingsError, read_settings

A, B = Endpoint("10.0.0.1"), Endpoint("10.0.0.2")


def piece(name: str, *entries: dict[str, Any], kind: str = "IPv4", service: str = "s") -> EndpointSlice:
    """An EndpointSlice as it comes over the wire."""
    labels = {"kubernetes.io/service-name": service}
    manifest = {
        "metadata": {"name": name, "namespace": "ns", "labels": labels, "uid": "ignored"},
        "addressType": kind,
        "endpoints": list(entries),
    }
    return msgspec.json.decode(msgspec.json.encode(manifest), type=EndpointSlice)


def entry(address: str, uid: str = "", **conditions: bool | None) -> dict[str, Any]:
    """One endpoint of a slice."""
    target = {"targetRef": {"uid": uid, "name": f"pod-{uid}"}} if uid else {}
    return {"addresses": [address], "conditions": conditions} | target


@pytest.mark.parametrize(
    ("slices", "want"),
    [
        ([piece("a")], ()),
        ([piece("a", entry("1.1.1.1", ready=True))], (Endpoint("1.1.1.1"),)),
        ([piece("a", entry("1.1.1.1"))], (Endpoint("1.1.1.1"),)),
        ([piece("a", entry("1.1.1.1", ready=None))], (Endpoint("1.1.1.1"),)),
        ([piece("a", entry("1.1.1.1", ready=False))], ()),
        ([piece("a", entry("1.1.1.1", ready=False, serving=True))], ()),
        (
            [piece("a", entry("1.1.1.1", ready=False, serving=True, terminating=True))],
            (Endpoint("1.1.1.1", leaving=True),),
        ),
        ([piece("a", entry("1.1.1.1", ready=False, serving=False, terminating=True))], ()),
        ([piece("a", entry("::1", ready=True), kind="IPv6")], (Endpoint("[::1]"),)),
        ([piece("a", entry("evil.example", ready=True), kind="FQDN")], ()),
        (
            [piece("b", entry("::1", "u", ready=True), kind="IPv6"), piece("a", entry("1.1.1.1", "u", ready=True))],
            (Endpoint("1.1.1.1", "pod-u"),),
        ),
        (
            [piece("a", entry("1.1.1.1", "u", ready=False)), piece("b", entry("1.1.1.1", "u", ready=True))],
            (Endpoint("1.1.1.1", "pod-u"),),
        ),
        ([piece("a", {"addresses": []})], ()),
    ],
)
def test_slices_to_endpoints(slices: list[EndpointSlice], want: tuple[Endpoint, ...]) -> None:
    assert merge_slices(slices) == want
    assert merge_slices(reversed(slices)) == want


def test_store_keeps_services_apart_and_forgets_what_is_gone() -> None:
    store = EndpointStore()
    one, two = piece("a", entry("1.1.1.1")), piece("b", entry("2.2.2.2"))
    store.replace([one, two])
    assert store.by_service == {("ns", "s"): (Endpoint("1.1.1.1"), Endpoint("2.2.2.2"))}
    store.upsert(piece("b", entry("2.2.2.2"), service="other"))
    assert store.by_service == {("ns", "s"): (Endpoint("1.1.1.1"),), ("ns", "other"): (Endpoint("2.2.2.2"),)}
    store.remove(one)
    store.remove(one)
    assert store.by_service == {("ns", "other"): (Endpoint("2.2.2.2"),)}
    store.replace([one])
    assert store.by_service == {("ns", "s"): (Endpoint("1.1.1.1"),)}


def picked(fleet: Fleet, route: Route) -> set[Endpoint]:
    """Where four requests go."""
    return {choice.endpoint for _ in range(4) if (choice := fleet.pick(route, set()))}


async def test_a_mark_passes_and_counts_come_back() -> None:
    now = [0.0]
    fleet = Fleet(clock=lambda: now[0])
    route = Route(model="m", namespace="ns", service="s", port=8000)
    fleet.add_store().replace([piece("a", entry(A.host), entry(B.host))])
    fleet.replica(A, route).shun()
    assert picked(fleet, route) == {B}
    now[0] = SHUN_SECONDS
    assert picked(fleet, route) == {A, B}
    with fleet.attempt(A, route), fleet.attempt(A, route), fleet.attempt(B, route):
        assert picked(fleet, route) == {B}
        assert fleet.in_flight() == 3
    assert fleet.in_flight() == 0


def test_settings_from_the_environment() -> None:
    base = {"RYZANSTEIN_NAMESPACE": "rz"}
    assert 1 <= read_settings(base).processes <= 4, "as many as there are CPUs, up to four"
    base |= {"RYZANSTEIN_GATEWAY_PROCESSES": "1"}
    assert read_settings(base) == Settings(namespace="rz", watch_namespaces=("rz",))
    full = read_settings(
        base
        | {
            "RYZANSTEIN_WATCH_NAMESPACES": "a, b,,a",
            "RYZANSTEIN_GATEWAY_AUTH": "None",
            "RYZANSTEIN_KEYSETS_DIR": "/keys",
            "RYZANSTEIN_MAX_BODY_BYTES": "10",
            "RYZANSTEIN_REQUEST_TIMEOUT_SECONDS": "2.5",
            "RYZANSTEIN_LOG_LEVEL": "debug",
        }
    )
    assert full.watch_namespaces == ("a", "b")
    assert (full.auth_required, full.keysets_dir, full.max_body_bytes) == (False, Path("/keys"), 10)
    assert (full.request_timeout_seconds, full.log_level) == (2.5, "DEBUG")
    assert read_settings(base | {"RYZANSTEIN_WATCH_NAMESPACES": "a,*"}).watch_namespaces == ("*",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RYZANSTEIN_NAMESPACE", ""),
        ("RYZANSTEIN_GATEWAY_AUTH", "maybe"),
        ("RYZANSTEIN_MAX_BODY_BYTES", "0"),
        ("RYZANSTEIN_MAX_BODY_BYTES", "1e3"),
        ("RYZANSTEIN_GATEWAY_PORT", "65536"),
        ("RYZANSTEIN_DRAIN_SECONDS", "soon"),
        ("RYZANSTEIN_DRAIN_SECONDS", "-1"),
        ("RYZANSTEIN_REQUEST_TIMEOUT_SECONDS", "nan"),
        ("RYZANSTEIN_LOG_LEVEL", "LOUD"),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings({"RYZANSTEIN_NAMESPACE": "rz", name: value})
