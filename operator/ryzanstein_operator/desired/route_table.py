"""The bytes of the gateway's route table within its ConfigMap. Pure; knows no row's meaning.

A ConfigMap holds 1 MiB at most. A table of a few hundred models is text that a person can read; a larger one is
compressed, to about a twentieth, so that tens of thousands of models fit.
"""

import base64
import gzip
import json
import zlib
from collections.abc import Iterable
from typing import Any, Final

from ryzanstein_operator.api.wire import Manifest
from ryzanstein_worker.contract import ROUTES_COMPRESSED_KEY, ROUTES_KEY, ROUTES_VERSION

PLAIN_BYTES: Final = 256 * 1024
"""A longer table is compressed: each change of a service writes it whole, and each gateway reads it whole."""


def pack(rows: Iterable[Manifest]) -> Manifest:
    """The ConfigMap's `data` or `binaryData`; the same rows in any order give the same bytes."""
    table = {"version": ROUTES_VERSION, "models": sorted(rows, key=lambda row: str(row["model"]))}
    text = json.dumps(table, indent=1) + "\n"
    if len(text) <= PLAIN_BYTES:
        return {"data": {ROUTES_KEY: text}}
    compact = json.dumps(table, separators=(",", ":")).encode()
    packed = gzip.compress(compact, mtime=0)  # no time of day in it, or no two tables would be equal
    return {"binaryData": {ROUTES_COMPRESSED_KEY: base64.b64encode(packed).decode()}}


def unpack(config_map: Manifest) -> list[Manifest]:
    """The rows of a live table; none where it cannot be read."""
    try:
        if packed := (config_map.get("binaryData") or {}).get(ROUTES_COMPRESSED_KEY):
            text = gzip.decompress(base64.b64decode(packed, validate=True))
        else:
            text = config_map["data"][ROUTES_KEY]
        rows: Any = json.loads(text)["models"]
        return [row for row in rows if {"namespace", "service"} <= row.keys()]
    except (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError, zlib.error):
        return []
