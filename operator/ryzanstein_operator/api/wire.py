"""What every wire type shares: frozen, camelCase on the wire, unknown fields refused, rules with a sentence.

Knows pydantic and the look of a rule; knows no custom resource. A rule is written once and held twice: as CEL by
the API server, and as Python by `plan` and by an operator whose cluster still has an older CRD.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

Manifest = dict[str, Any]
"""A Kubernetes object as JSON: the one bare dict that may cross modules."""


def section(manifest: Manifest, name: str) -> Manifest:
    """One part of a manifest that nobody has checked; empty where it is missing or something else."""
    found = manifest.get(name)
    return found if isinstance(found, dict) else {}


WireT = TypeVar("WireT", bound="Wire")


class SpecError(ValueError):
    """A resource that cannot be run. Its text is one sentence for the user, led by the field's path."""


@dataclass(frozen=True)
class Rule:
    """One promise about a value: `cel` for the API server, `holds` for Python, `message` for the user.

    `field` is the wire name of the field to blame, or empty for the whole object. `holds` is None for a transition
    rule (it compares with `oldSelf`, which only the API server has).
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None
    field: str = ""

    def to_wire(self) -> dict[str, str]:
        """One item of `x-kubernetes-validations`."""
        wire = {"rule": self.cel, "message": self.message}
        return wire | {"fieldPath": f".{self.field}"} if self.field else wire


class Wire(BaseModel):
    """Base of all wire types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,  # "2" and true are no integers to the API server either
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        if cls.rules:
            schema["x-kubernetes-validations"] = [rule.to_wire() for rule in cls.rules]
        return schema

    @model_validator(mode="after")
    def _hold_rules(self) -> Self:
        for rule in self.rules:
            if rule.holds is not None and not rule.holds(self):
                raise ValueError(f"{rule.field}: {rule.message}" if rule.field else rule.message)
        return self

    def to_wire(self) -> Manifest:
        """The JSON form: camelCase keys, what is None left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def parse(model: type[WireT], manifest: Mapping[str, Any]) -> WireT:
    """Reads a manifest into its model. Raises SpecError with one sentence that names the first field at fault."""
    try:
        return model.model_validate(manifest)
    except ValidationError as error:
        raise SpecError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=True)[0]
    path = [str(part) for part in first["loc"]]
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "value_error" and ": " in message:
        field, rest = message.split(": ", 1)
        if field.isalnum():
            path, message = [*path, field], rest
    if first["type"] == "extra_forbidden":
        message = "is not a field of this version"
    elif first["type"] == "missing":
        message = "is required"
    where = ".".join(path)
    return f"{where}: {message}" if where else message
