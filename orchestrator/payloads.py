"""What may enter a log: JSON of bounded size and depth, and its fingerprint.

Refused here, before anything is written, are all values that one side would store and the other
could not read back: NaN, infinities, NUL characters, lone surrogates, endless nesting.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import MAX_PREC, Context, Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID

from pydantic import BaseModel, ValidationError

from orchestrator.definition import SagaDefinition
from orchestrator.entries import Json
from orchestrator.errors import CardNumberError, InvalidKeyError, PayloadError
from orchestrator.redaction.values import without_card_data

MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_KEY_LENGTH = 200
MAX_TRACE_BYTES = 2048
MAX_SHOWN_NAME = 64
SHOWN_PROBLEMS = 5
MAX_INTEGER = 2**63 - 1
"""The largest integer that every reader of JSON, Postgres's own included, gives back exactly."""


def validated(definition: SagaDefinition[Any], payload: BaseModel | Mapping[str, Any]) -> Json:
    """Return the payload as the JSON that the log will hold, checked against the definition.

    Raises:
        CardNumberError: a field holds card data.
        PayloadError: not of the declared shape, too large (64 kB), nested deeper than 32, or not
            representable in JSON. The message names the field and never repeats a value.
    """
    given = as_given(payload)
    _check_size(given)
    refuse_card_data(given, "payload")  # before a validator of the model's can repeat it
    try:
        model = read_back(definition, given)
    except ValidationError as error:
        raise PayloadError(_explain(definition, error)) from None
    whole = to_json(model.model_dump(round_trip=True))
    _check_size(whole)
    refuse_card_data(whole, "payload")
    return whole


def refuse_card_data(value: Json, field: str) -> None:
    """Let nothing pass that PCI DSS forbids to store, and that no caller means to send.

    Raises:
        CardNumberError: `value` is or has within it a card number or a security code.
    """
    _, places = without_card_data(value)
    if places:
        raise CardNumberError(".".join(each for each in (field, places[0]) if each))


def read_back(definition: SagaDefinition[Any], payload: Json) -> BaseModel:
    """Return the model of a payload from JSON; fields may go by their names or their aliases.

    Read as JSON, so that a strict model takes a date or a decimal from its text.
    """
    model = definition.payload.model_validate_json(canonical(payload), by_alias=True, by_name=True)
    return cast("BaseModel", model)


def payload_fits(definition: SagaDefinition[Any], payload: Json) -> bool:
    """Whether `read_back` works, whatever the model's own validators raise."""
    try:
        read_back(definition, payload)
    except Exception:  # noqa: BLE001 - the model is somebody else's code
        return False
    return True


def fingerprint(payload: BaseModel | Mapping[str, Any]) -> str:
    """Return the hash of the canonical payload as given, before defaults: 64 hex digits."""
    return hashlib.sha256(canonical(as_given(payload))).hexdigest()


def as_given(payload: BaseModel | Mapping[str, Any]) -> Json:
    """Return the payload as JSON with only the fields the caller set."""
    if isinstance(payload, BaseModel):
        return to_json(payload.model_dump(exclude_unset=True, round_trip=True))
    if not isinstance(payload, Mapping):
        raise PayloadError(f"payload must be a mapping or a model, not {type(payload).__name__}")
    return to_json(payload)


def canonical(value: Json) -> bytes:
    """Encode JSON so that equal values give equal bytes in every process and version."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def checked_key(key: object) -> str:
    """Return a key, of a saga or a call, that can be stored, printed and derived from.

    Raises:
        InvalidKeyError: empty, longer than 200 characters, or with control characters.
        CardNumberError: it holds a card number.
    """
    if not isinstance(key, str) or not key.strip():
        raise InvalidKeyError("there is no key; use the business's own, like the order id")
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidKeyError(f"the key is {len(key)} characters long; at most {MAX_KEY_LENGTH}")
    if any(not character.isprintable() for character in key):
        raise InvalidKeyError("the key has control or unprintable characters; remove them")
    refuse_card_data(key, "key")
    return key


def checked_trace(trace: Mapping[str, str]) -> Json:
    """Return trace context as JSON.

    Raises:
        CardNumberError: it holds card data.
        PayloadError: larger than 2 kB: it is a few headers, and written with every saga.
    """
    readable = to_json(trace)
    refuse_card_data(readable, "trace")
    if len(canonical(readable)) > MAX_TRACE_BYTES:
        raise PayloadError(f"trace context is larger than {MAX_TRACE_BYTES:,} bytes")
    return readable


def to_json(value: Any, depth: int = 0) -> Json:
    """Return `value` as plain JSON.

    Raises:
        PayloadError: a value has no faithful JSON form; the message says which kind.
    """
    if depth > MAX_DEPTH:
        raise PayloadError(f"nested deeper than {MAX_DEPTH} levels; flatten it")
    match value:
        case None | bool():
            return value
        case Enum():
            return to_json(value.value, depth + 1)
        case str():
            return _text(value)
        case int():
            if abs(value) > MAX_INTEGER:
                raise PayloadError("integers have at most 64 bits; send larger ones as text")
            return int(value)
        case float():
            if not math.isfinite(value):
                raise PayloadError("NaN and infinity are not JSON; send a number or null")
            return value
        case Decimal():
            if not value.is_finite():
                raise PayloadError("NaN and infinity are not JSON; send a number or null")
            return _decimal(value)
        case BaseModel():
            return to_json(value.model_dump(), depth)
        case Mapping():
            return {_name(name): to_json(each, depth + 1) for name, each in value.items()}
        case list() | tuple():
            return [to_json(each, depth + 1) for each in value]
        case datetime() | date() | time():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            raise PayloadError(f"{type(value).__name__} has no JSON form; convert it first")


def _decimal(value: Decimal) -> str:
    if abs(value.adjusted()) > MAX_BYTES:
        raise PayloadError("the decimal number is out of any range; send it as text")
    return format(value.normalize(Context(prec=MAX_PREC)), "f")


def _text(value: str) -> str:
    if "\x00" in value:
        raise PayloadError("text holds a NUL character, which Postgres cannot store; remove it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PayloadError("text holds half a surrogate pair; send valid Unicode") from None
    return value


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise PayloadError(f"field names must be text, not {type(name).__name__}")
    return _text(name)


def _check_size(value: Json) -> None:
    size = len(canonical(value))
    if size > MAX_BYTES:
        raise PayloadError(
            f"payload is {size:,} bytes; at most {MAX_BYTES:,}. Store it elsewhere, send its id"
        )


def _explain(definition: SagaDefinition[Any], error: ValidationError) -> str:
    problems = [
        f"{_place(definition, each['loc'])}: {each['msg']}"
        for each in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    shown = "; ".join(problems[:SHOWN_PROBLEMS])
    hidden = len(problems) - SHOWN_PROBLEMS
    more = f" (and {hidden} more)" if hidden > 0 else ""
    return f"payload does not fit {definition}: {shown}{more}"


def _place(definition: SagaDefinition[Any], location: tuple[int | str, ...]) -> str:
    """Where a payload is wrong. A caller's own names are data, and so may be a card number."""
    fields = definition.payload.model_fields
    known = {*fields, *(each.alias for each in fields.values())}
    named = [
        str(each) if isinstance(each, int) or each in known or _is_plain(each) else "unknown field"
        for each in location
    ]
    return ".".join(named) or "payload"


def _is_plain(name: str) -> bool:
    return name.isidentifier() and len(name) <= MAX_SHOWN_NAME
