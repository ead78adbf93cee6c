#!/usr/bin/env python3
"""Writes docs/openapi.json and docs/api-reference.md: every field of the API, from the models and the proto themselves.

python scripts/api_docs.py
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from ryzanstein_worker.server.api import build_app
from ryzanstein_worker.server.health import Probes
from ryzanstein_worker.server.service import Service
from ryzanstein_worker.telemetry.metrics import ServerMetrics

ROOT = Path(__file__).resolve().parents[1]
PROTO = "ryzanstein/v1/inference.proto"
REQUESTS = ("CompletionRequest", "ChatCompletionRequest", "Message", "TextPart", "StreamOptions", "ResponseFormat")
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}


def openapi() -> dict[str, Any]:
    """The document of the API's own paths; the worker's probes are none of a client's."""
    none: Any = None  # only the routes' shapes are looked at, and no request comes
    app = build_app(cast(Service, none), cast(Probes, none), ServerMetrics("model"))
    document = app.openapi()
    document["info"] = {"title": "Ryzanstein", "version": "v1"}
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    return document


def rest_tables(document: dict[str, Any]) -> Iterator[str]:
    """A table of fields for each request model."""
    schemas = document["components"]["schemas"]
    for name in REQUESTS:
        schema = schemas[name]
        yield f"### {name}\n"
        if "description" in schema:
            yield schema["description"].strip() + "\n"
        yield "| field | type and bounds | |"
        yield "| --- | --- | --- |"
        for field, shape in schema["properties"].items():
            required = "required" if field in schema.get("required", ()) else ""
            yield f"| `{field}` | {_cell(words(shape))} | {_cell(shape.get('description', required))} |"
        yield ""


def words(shape: dict[str, Any]) -> str:
    """A JSON schema in words. None is left out: any field that is not required may be null."""
    if "$ref" in shape:
        name = shape["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in shape:
        return " or ".join(words(one) for one in shape["anyOf"] if one.get("type") != "null")
    if "enum" in shape or "const" in shape:
        return ", ".join(f"`{json.dumps(value)}`" for value in shape.get("enum", [shape.get("const")]))
    kind = str(shape.get("type", "anything"))
    if kind == "array":
        kind = f"list of ({words(shape['items'])})"
    bounds = [text.format(shape[key]) for key, text in BOUNDS.items() if key in shape]
    return ", ".join([kind, *bounds])


def descriptor() -> FileDescriptorProto:
    """The proto with its comments."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "set"
        compile_ = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"), "--include_source_info"]
        subprocess.run([*compile_, f"--descriptor_set_out={target}", PROTO], check=True, cwd=ROOT / "proto")
        return FileDescriptorSet.FromString(target.read_bytes()).file[0]


def grpc_tables(file: FileDescriptorProto) -> Iterator[str]:
    """Methods, messages and enums with their comments."""
    comments = {tuple(one.path): " ".join(one.leading_comments.split()) for one in file.source_code_info.location}
    for at, service in enumerate(file.service):
        yield f"### {file.package}.{service.name}\n\n{comments[(6, at)]}\n"
        yield "| method | request | answer | |"
        yield "| --- | --- | --- | --- |"
        for number, method in enumerate(service.method):
            answer = ("stream of " if method.server_streaming else "") + _short(method.output_type)
            note = _cell(comments.get((6, at, 2, number), ""))
            yield f"| `{method.name}` | {_short(method.input_type)} | {answer} | {note} |"
        yield ""
    for at, message in enumerate(file.message_type):
        yield from _message_table(message, at, comments)
    for at, enum in enumerate(file.enum_type):
        yield f"### {enum.name} (enum)\n\n{comments.get((5, at), '')}\n"
        yield "| value | number | |"
        yield "| --- | ---: | --- |"
        for number, value in enumerate(enum.value):
            yield f"| `{value.name}` | {value.number} | {_cell(comments.get((5, at, 2, number), ''))} |"
        yield ""


def _message_table(message: DescriptorProto, at: int, comments: dict[tuple[int, ...], str]) -> Iterator[str]:
    if not message.field:
        return
    yield f"### {message.name} (message)\n\n{comments.get((4, at), '')}\n"
    yield "| field | type | |"
    yield "| --- | --- | --- |"
    for number, field in enumerate(message.field):
        note = comments.get((4, at, 2, number), "")
        yield f"| `{field.name}` | {_type(message, field)} | {_cell(note)} |"
    yield ""


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    kinds = FieldDescriptorProto.Type
    name = _short(field.type_name) if field.type_name else kinds.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    if field.proto3_optional:
        return f"optional {name}"
    if field.HasField("oneof_index"):
        return f"{name} (one of `{message.oneof_decl[field.oneof_index].name}`)"
    return name


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write both files."""
    document = openapi()
    (ROOT / "docs/openapi.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    text = [
        "# API reference",
        "",
        "Generated by scripts/api_docs.py from the request models and `proto/`. The guide is [api.md](api.md); the",
        "REST API as an OpenAPI document: [openapi.json](openapi.json).",
        "",
        "## REST and WebSocket: requests",
        "",
        "A field that is not listed is refused. Null always means: as if the field had not been sent.",
        "",
        *rest_tables(document),
        "## gRPC",
        "",
        *grpc_tables(descriptor()),
    ]
    (ROOT / "docs/api-reference.md").write_text("\n".join(text).rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
