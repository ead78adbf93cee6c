"""A request's body into its model, or into a 400 that says what is wrong. Knows JSON and pydantic, no HTTP."""

import json
import string
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from ryzanstein_worker.server.errors import ApiError
from ryzanstein_worker.server.openai import StrictModel

RequestT = TypeVar("RequestT", bound=StrictModel)

_HEX = frozenset(string.hexdigits)
_SENTENCES = {
    "missing": "is required",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_type": "must be a string",
    "string_unicode": "must be a string of Unicode characters without lone surrogates",
    "int_type": "must be an integer",
    "int_parsing_size": "is out of range",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "literal_error": "must be one of {expected}",
    "none_required": "is not supported",
    "disagree": "{sentence}",
}
_UNIONS = {
    "prompt": "must be a string, a list of strings, a list of token ids or a list of lists of token ids, none empty "
    "and none too long",
    "stop": "must be a string or a list of at most 16 strings, each of 1 to 256 characters",
}


def parse(body: bytes, model: type[RequestT]) -> RequestT:
    """The request in a body.

    Raises:
        ApiError: 400; it is not JSON, has a key twice, is nested too deep, or a field is unknown or out of bounds.
    """
    return check(_load(body), model)


def check(value: Mapping[str, Any], model: type[RequestT]) -> RequestT:
    """The request of a JSON object. Raises ApiError: 400; a field is unknown or out of bounds."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _refusal(first["type"], first["loc"], first.get("ctx", {})) from None


def salt_of(given: str) -> bytes:
    """The salt of the prefix cache that the gateway sends along; empty where there is none. Raises ApiError."""
    if len(given) > 64 or len(given) % 2 or not _HEX.issuperset(given):
        raise ApiError(400, "The cache salt header must be at most 64 hexadecimal digits.")
    return bytes.fromhex(given)


class _RefusedError(ValueError):
    """A construct that JSON parsers accept and we do not; its text is ours."""


def _load(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except _RefusedError as error:
        raise ApiError(400, str(error)) from None
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.") from None
    except ValueError:  # not UTF-8, not JSON, or an integer of thousands of digits
        raise ApiError(400, "The body is not valid JSON in UTF-8.") from None
    if not isinstance(value, dict):
        raise ApiError(400, "The body must be a JSON object.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):  # parsers differ on which of two equal keys counts, so none may
        raise _RefusedError("The body has an object with the same key twice.")
    return value


def _no_constant(_: str) -> NoReturn:
    raise _RefusedError("NaN and Infinity are no JSON numbers.")


def _refusal(kind: str, location: tuple[int | str, ...], context: dict[str, Any]) -> ApiError:
    field = str(context.get("param") or (location[0] if location else "body"))
    if kind == "extra_forbidden":
        name = "".join(c for c in str(location[-1])[:64] if c.isprintable())
        return ApiError(400, f"Unrecognized request argument supplied: {name}", param=name, code="unknown_parameter")
    if field in _UNIONS and kind != "missing":
        return ApiError(400, f"'{field}' {_UNIONS[field]}.", param=field, code="invalid_value")
    path = ".".join(str(part) for part in location if isinstance(part, int) or part.isidentifier()) or field
    sentence = _SENTENCES.get(kind, "is not valid").format_map(context)
    return ApiError(400, f"'{path}' {sentence}.", param=path, code="invalid_value")
