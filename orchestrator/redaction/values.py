"""Hides card data and secrets in values: what is logged as fields, what is stored as JSON.

Dicts, lists, tuples and sets are walked, up to a depth and a number of values; text and numbers in
them are judged together with the name of their field. Anything else stays as it is: it becomes text
when it is rendered, and that text is redacted too.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple

from orchestrator.redaction.by_name import SECRET_NAME, is_telling
from orchestrator.redaction.text import (
    CARD_DATA_NEEDS,
    LOG_NEEDS,
    SECRET,
    card_data,
    card_data_and_secrets,
    replaced,
)

MAX_DEPTH: Final = 50
MAX_VALUES: Final = 100_000
TOO_DEEP: Final = "[REDACTED_DEPTH_LIMIT]"
TOO_MANY: Final = "[REDACTED_SIZE_LIMIT]"
UNREADABLE: Final = "[REDACTED_UNREADABLE]"

_LONGEST_NAME: Final = 64
_AMOUNTS: Final = ("amount", "_minor")
_MOST_BITS: Final = 64
"""Nineteen digits have fewer; a longer integer need not be printed to know that."""


def redact_dict(value: Any) -> Any:
    """Return a dict, list or any other value without card data and secrets.

    The same object comes back where there are none; nothing is changed in place. Deeper than 50
    levels, and after 100,000 values, a mark stands for the rest.
    """
    return _Walk(hides_secrets=True).value(value)


def without_card_data(value: Any) -> tuple[Any, list[str]]:
    """Return a value as it may be stored, and the places where something was hidden.

    Only what PCI DSS forbids to store is hidden: a step's result may hold a token that the next
    step needs. Places are paths like ``card.number`` and hold no values.
    """
    walk = _Walk(hides_secrets=False)
    return walk.value(value), list(dict.fromkeys(walk.hidden))


class _Walk:
    """One walk over one value; `hidden` has the path of everything that was replaced."""

    def __init__(self, *, hides_secrets: bool) -> None:
        self.hidden: list[str] = []
        self._find = card_data_and_secrets if hides_secrets else card_data
        self._may_hold_any = (LOG_NEEDS if hides_secrets else CARD_DATA_NEEDS).search
        self._hides_secrets = hides_secrets
        self._left = MAX_VALUES
        self._path: list[str] = []

    def value(self, value: Any, name: str = "") -> Any:
        self._left -= 1
        if self._left < 0:
            return self._hide(TOO_MANY)
        match value:
            case None | bool():
                return value
            case str():
                return self._text(value, name)
            case int() | float() | Decimal():
                return self._number(value, name)
            case bytes():
                return self._bytes(value, name)
            case Mapping() | list() | tuple() | set() | frozenset():
                return self._container(value, name)
            case _:
                return value

    def _container(self, value: Any, name: str) -> Any:
        if len(self._path) >= MAX_DEPTH:
            return self._hide(TOO_DEEP)
        if isinstance(value, Mapping):
            return self._mapping(value)
        walked = [self._below(str(place), each, name) for place, each in enumerate(value)]
        if all(old is new for old, new in zip(value, walked, strict=True)):
            return value
        kinds = (list, tuple, frozenset, set)
        return next(kind for kind in kinds if isinstance(value, kind))(walked)

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        try:
            items = list(value.items())
        except Exception:  # noqa: BLE001 - somebody else's class; no log line may fail on it
            return UNREADABLE
        walked = {}
        is_same = True
        for key, each in items:
            is_text = isinstance(key, str)
            if is_text and not self._may_hold_any(key):
                shown = key
            else:
                shown = self._below("(name)", key) if isinstance(key, str | int | bytes) else key
            new = self._below(_place(shown), each, key if is_text else "")
            is_same = is_same and shown is key and new is each
            walked[shown] = new
        return value if is_same else walked

    def _below(self, place: str, value: Any, name: str = "") -> Any:
        self._path.append(place)
        try:
            return self.value(value, name)
        finally:
            self._path.pop()

    def _text(self, value: str, name: str) -> str:
        meaning = _meaning(name)
        if not meaning.is_telling and not self._may_hold_any(value):
            return value  # most fields are words and small numbers
        if self._hides_secrets and value and meaning.is_secret:
            return self._hide(SECRET)
        # Judged with its name in front; what is found in the name alone is the name's affair.
        label = f"{name}=" if meaning.is_name else ""
        ahead = len(label)
        found = [
            each._replace(start=max(0, each.start - ahead), end=each.end - ahead)
            for each in self._find(label + value)
            if each.end > ahead
        ]
        return self._hide(replaced(value, found)) if found else value

    def _number(self, value: float | Decimal, name: str) -> Any:
        match value:
            case _ if name.lower().endswith(_AMOUNTS):
                return value
            case int() if value.bit_length() > _MOST_BITS:
                return value
            case float() if not (value.is_integer() and abs(value) < 1 << _MOST_BITS):
                return value
            case float():
                text = str(int(value))
            case _:
                text = str(value)
        shown = self._text(text, name)
        return value if shown is text else shown

    def _bytes(self, value: bytes, name: str) -> bytes:
        text = value.decode(errors="surrogateescape")
        shown = self._text(text, name)
        return value if shown is text else shown.encode(errors="surrogateescape")

    def _hide(self, shown: str) -> str:
        self.hidden.append(".".join(self._path))
        return shown


def _place(name: object) -> str:
    """A field's name as part of a path, unless it might be a value itself."""
    is_plain = isinstance(name, str) and name.isidentifier() and len(name) <= _LONGEST_NAME
    return str(name) if is_plain else "?"


class _Meaning(NamedTuple):
    """What a field's name says of its value."""

    is_name: bool
    is_telling: bool
    is_secret: bool


@lru_cache(maxsize=1024)
def _meaning(name: str) -> _Meaning:
    if not 0 < len(name) <= _LONGEST_NAME:
        return _Meaning(is_name=False, is_telling=False, is_secret=False)
    return _Meaning(
        is_name=True,
        is_telling=is_telling(name),
        is_secret=SECRET_NAME.search(name) is not None,
    )
