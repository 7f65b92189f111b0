"""A folded saga as plain JSON and back, by the type hints of its dataclasses.

Nothing here names a field: what a state is made of may grow without this file. A type that has no
form here is refused when the codec is made, not when a saga is written.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from orchestrator.entries import Json
from orchestrator.state import FoldedSaga

Convert = Callable[[Any], Any]

PLAIN = (bool, int, float, str, types.NoneType)
"""What JSON has itself."""


@dataclass(frozen=True, slots=True)
class Codec:
    """Both directions of one type; None stands for "as it is"."""

    encode: Convert | None = None
    decode: Convert | None = None


AS_IT_IS = Codec()


def encoded(state: FoldedSaga) -> Json:
    """Return the state as JSON; fields that hold their default are left out."""
    encode = codec_of(FoldedSaga).encode
    assert encode is not None, "a dataclass is never written as it is"
    return encode(state)


def decoded(value: Json) -> FoldedSaga:
    """Return the state that `encoded` wrote.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it was not written by this very code.
    """
    decode = codec_of(FoldedSaga).decode
    assert decode is not None, "a dataclass is never read as it is"
    state: FoldedSaga = decode(value)
    return state


@cache
def codec_of(hint: Hashable) -> Codec:
    """Return how values of a type are written and read.

    Raises:
        TypeError: the type has no form in JSON here; give it one.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or hint in PLAIN:
        return AS_IT_IS
    if origin is Union or origin is types.UnionType:
        return _union(arguments)
    if origin in (tuple, frozenset, list):
        return _sequence(origin, arguments)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(arguments)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Codec(encode=lambda value: value.value, decode=hint)
    if hint is datetime:
        return Codec(encode=datetime.isoformat, decode=datetime.fromisoformat)
    if isinstance(hint, type) and is_dataclass(hint):
        return _dataclass(hint)
    raise TypeError(f"{hint} in a saga's state has no form in JSON: see {__name__}")


def _union(members: tuple[Any, ...]) -> Codec:
    """Of several dataclasses the name is written too; one of them needs none."""
    kinds = [each for each in members if isinstance(each, type) and is_dataclass(each)]
    rest = [each for each in members if each not in kinds and each is not types.NoneType]
    if not kinds and len(rest) == 1:
        return _unless_none(codec_of(rest[0]))
    if not kinds and all(codec_of(each) is AS_IT_IS for each in rest):
        return AS_IT_IS
    if rest:
        raise TypeError(f"{members} in a saga's state has no form in JSON: see {__name__}")
    if len(kinds) == 1:
        return _unless_none(codec_of(kinds[0]))
    named = {each.__name__: each for each in kinds}

    def encode(value: Any) -> Json:
        kind: Any = type(value)
        return [kind.__name__, _run(codec_of(kind).encode, value)]

    def decode(value: Json) -> Any:
        return _run(codec_of(named[value[0]]).decode, value[1])

    return _unless_none(Codec(encode=encode, decode=decode))


def _unless_none(codec: Codec) -> Codec:
    return Codec(
        encode=codec.encode and (lambda value: None if value is None else codec.encode(value)),  # type: ignore[misc]
        decode=codec.decode and (lambda value: None if value is None else codec.decode(value)),  # type: ignore[misc]
    )


def _sequence(origin: Any, arguments: tuple[Any, ...]) -> Codec:
    if origin is tuple and arguments[1:] != (...,):
        raise TypeError(f"tuple{arguments} in a saga's state has no form in JSON: see {__name__}")
    item = codec_of(arguments[0])
    order: Convert = sorted if origin is frozenset else list

    def encode(value: Any) -> Json:
        return order(value if item.encode is None else map(item.encode, value))

    def decode(value: Json) -> Any:
        return origin(value if item.decode is None else map(item.decode, value))

    return Codec(encode=encode, decode=decode)


def _mapping(arguments: tuple[Any, ...]) -> Codec:
    key, item = codec_of(arguments[0]), codec_of(arguments[1])

    def encode(value: Any) -> Json:
        return {_run(key.encode, name): _run(item.encode, each) for name, each in value.items()}

    def decode(value: Json) -> Any:
        return {_run(key.decode, name): _run(item.decode, each) for name, each in value.items()}

    return Codec(encode=encode, decode=decode)


def _dataclass(kind: Any) -> Codec:
    """Its own codec is asked for when it is used: a state may hold states."""
    hints = get_type_hints(kind)
    parts = [(each.name, _default(each), hints[each.name]) for each in fields(kind)]

    def encode(value: Any) -> Json:
        written = {}
        for name, default, hint in parts:
            part = getattr(value, name)
            if part != default:
                written[name] = _run(codec_of(hint).encode, part)
        return written

    def decode(value: Json) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"{kind.__name__} is written as an object, not as {value!r:.40}")
        read = {}
        for name, _, hint in parts:
            if name in value:
                read[name] = _run(codec_of(hint).decode, value[name])
        if len(read) != len(value):
            raise TypeError(f"{kind.__name__} has no fields {sorted(set(value) - set(read))}")
        return kind(**read)

    for _, _, hint in parts:
        _refuse_formless(hint, kind)
    return Codec(encode=encode, decode=decode)


def _refuse_formless(hint: Any, inside: Any) -> None:
    if hint is not inside and inside not in get_args(hint):
        codec_of(hint)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _run(convert: Convert | None, value: Any) -> Any:
    return value if convert is None else convert(value)
