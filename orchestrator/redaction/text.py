"""Hides card data and secrets in text. Never raises, in time linear in the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from orchestrator.redaction import by_name
from orchestrator.redaction.card_numbers import card_numbers
from orchestrator.redaction.folding import FILL, folded
from orchestrator.redaction.secret_keys import secret_keys

SHOWN_DIGITS: Final = 4
"""Of a card number; PCI DSS allows the first six too, and no operator needs them."""

SECURITY_CODE: Final = "[REDACTED_CVV]"
TRACK: Final = "[REDACTED_TRACK]"
PIN: Final = "[REDACTED_PIN]"
SECRET: Final = "[REDACTED_SECRET]"  # noqa: S105 - what stands in its place


class Tokenizer(Protocol):
    """A vault that gives an opaque token for a card number, and takes it back.

    Amends calls `tokenize` alone; the rest is for who owns the vault.
    """

    def tokenize(self, pan: str) -> str: ...

    def detokenize(self, token: str) -> str: ...

    def delete(self, token: str) -> None: ...


class Hidden(NamedTuple):
    """What to put in place of ``text[start:end]``; `card_number` where it is one."""

    start: int
    end: int
    shown: str
    card_number: str | None = None


Find = Callable[[str], list[Hidden]]


def redact(text: str, tokenizer: Tokenizer | None = None) -> str:
    """Return `text` without card data and secrets; the same object where there are none.

    A card number keeps its last four digits: ``************4242``. Redacting twice changes nothing.

    Args:
        text: anything, a rendered log line for example.
        tokenizer: gives what stands in place of a card number. Where it raises, the last four
            digits do.
    """
    if not text:
        return text  # nothing, or None as the seed allowed
    found = card_data_and_secrets(text)
    if tokenizer is not None:
        found = [_tokenized(each, tokenizer) for each in found]
    return replaced(text, found)


CARD_DATA_NEEDS: Final = re.compile(r"[0-9]{3}|[%\\]|[^\x00-\x7f]")
"""What any text with card data has in it: three digits together, or what may be folded to some."""

LOG_NEEDS: Final = re.compile(CARD_DATA_NEEDS.pattern + r"|[ =:]|eyJ|(?:live|test|whsec)_")
"""What any text with card data or a secret has in it."""


def card_data(text: str) -> list[Hidden]:
    """Find what PCI DSS forbids to store: card numbers, tracks, named security codes."""
    return _apart(_card_data(text)) if CARD_DATA_NEEDS.search(text) else []


def card_data_and_secrets(text: str) -> list[Hidden]:
    """Find card data, and what a log must not show beside it."""
    if not LOG_NEEDS.search(text):
        return []
    found = _card_data(text)
    found += [Hidden(start, end, SECRET) for start, end in secret_keys(text)]
    for form in _forms(text):
        if _has_any(by_name.SECRETS_HINTS, form.lower()):
            found += _named(form, by_name.SECRETS)
    return _apart(found)


def replaced(text: str, found: Sequence[Hidden]) -> str:
    """Return `text` with what was found replaced."""
    if not found:
        return text
    pieces: list[str] = []
    done = 0
    for each in found:
        pieces += (text[done : each.start], each.shown)
        done = each.end
    return "".join((*pieces, text[done:]))


def masked(digits: str) -> str:
    """Return the last four digits behind as many stars as there were others."""
    return "*" * (len(digits) - SHOWN_DIGITS) + digits[-SHOWN_DIGITS:]


def _card_data(text: str) -> list[Hidden]:
    found: list[Hidden] = []
    for form in _forms(text):
        for each in card_numbers(form, is_folded=form is not text):
            start = _start_of_escape(form, each.start)
            if each.is_track:
                found.append(Hidden(start, each.end, TRACK))
            else:
                found.append(Hidden(start, each.end, masked(each.digits), each.digits))
        if _has_any(by_name.CARD_DATA_HINTS, form.lower()):
            found += _named(form, by_name.CARD_DATA)
    return found


def _has_any(hints: Sequence[str], text: str) -> bool:
    for each in hints:  # noqa: SIM110 - `any` costs a third more, on every line of every log
        if each in text:
            return True
    return False


def _forms(text: str) -> tuple[str, ...]:
    """A percent sign may be an escape or none: what is folded is read as it stands, too."""
    plain = folded(text)
    return (text,) if plain is text else (text, plain)


_SHOWN: Final = {
    "code": SECURITY_CODE,
    "code_too": SECURITY_CODE,
    "pin": PIN,
    "secret": SECRET,
}
_NOT_A_DIGIT: Final = re.compile(r"[^0-9]+")


def _named(text: str, pattern: re.Pattern[str]) -> Iterator[Hidden]:
    for match in pattern.finditer(text):
        name = match.lastgroup
        assert name is not None, "every branch of the patterns names its value"
        end = match.end(name)
        start = _start_of_escape(text, match.start(name))
        if name == "number":
            digits = _NOT_A_DIGIT.sub("", match[name])
            yield Hidden(start, end, masked(digits), digits)
        else:
            yield Hidden(start, end, _SHOWN[name])


def _start_of_escape(text: str, start: int) -> int:
    """Cut no escape in two: its character stands at its end."""
    while start and text[start - 1] == FILL:
        start -= 1
    return start


def _apart(found: list[Hidden]) -> list[Hidden]:
    """Sort what was found; of two that overlap the first hides what the second would."""
    if len(found) < 2:  # noqa: PLR2004 - nothing can overlap
        return found
    apart: list[Hidden] = []
    for each in sorted(found, key=lambda hidden: hidden.start):
        if not apart or each.start >= apart[-1].end:
            apart.append(each)
        elif each.end > apart[-1].end and not (apart[-1].card_number and each.card_number):
            apart[-1] = apart[-1]._replace(end=each.end)
    return apart


def _tokenized(hidden: Hidden, tokenizer: Tokenizer) -> Hidden:
    if hidden.card_number is None:
        return hidden
    try:
        return hidden._replace(shown=str(tokenizer.tokenize(hidden.card_number)))
    except Exception:  # noqa: BLE001 - a vault that is down must not let the number through
        return hidden
