"""Finds card numbers in text, and tells them from the many other long numbers of an order.

Three things must come together: digits in one run or in the groups that cards are printed in, an
issuer's prefix at a length that it issues, and a right check digit. The check digit alone would
take one order number in ten for a card. What then still looks like a card and is something else (a
UUID, an IBAN, a fraction, a hash, …) is in `_OTHERS`.

Every pattern is bounded and begins with one class of characters: the time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from orchestrator.redaction.folding import FILL

_ISSUED: Final = re.compile(
    r"4[0-9]{12}(?:[0-9]{3})?"  # Visa: 16, of old 13
    r"|5[1-5][0-9]{14}"  # Mastercard
    r"|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard since 2017
    r"|3[47][0-9]{13}"  # American Express
    r"|(?:30[0-59]|3[689][0-9])[0-9]{11}(?:[0-9]{2})?"  # Diners Club: 14, 16
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12}"  # JCB
    r"|6(?:011|4[4-9][0-9]|5[0-9]{2})[0-9]{12}"  # Discover, RuPay, Elo
    r"|62[0-9]{14,17}"  # UnionPay: 16 to 19
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])[0-9]{9,15}|67[0-9]{14}"  # Maestro
    r"|220[0-4][0-9]{12}"  # Mir
    r"|(?:60|81|82)[0-9]{14}|508[0-9]{13}"  # RuPay, Hipercard, UnionPay
    r"|(?:5019|50[67][0-9]|509[0-9]|636[23]|9792|8600|9860)[0-9]{12}"  # Dankort, Elo, Troy, …
)
_ALLOWED: Final = re.compile(
    r"4[0-9]{18}"  # Visa
    r"|(?:30[0-59]|3[689][0-9])[0-9]{12,16}"  # Diners Club
    r"|35(?:2[89]|[3-8][0-9])[0-9]{13,15}"  # JCB
    r"|6(?:011|4[4-9][0-9]|5[0-9]{2})[0-9]{13,15}"  # Discover
    r"|(?:220[0-4]|50[67][0-9])[0-9]{13,15}"  # Mir, Verve
)
"""Lengths that the rules of a brand allow and that hardly anybody issues. 64-bit ids have them too,
so they count only in groups or where the text speaks of a card."""


def _pattern(fill: str) -> re.Pattern[str]:
    """Where a card number may begin; group 1 is the rest of it, group 2 the rest of 16 digits."""
    digit = f"{fill}[0-9]"
    gap = f"{fill}(?:[ \\t._+-]{fill}){{1,3}}"

    def more(length: str) -> str:
        return f"(?:{digit}){{{length}}}"

    four = f"[0-9]{more('3')}"
    shapes = (  # behind the first four digits, which all of them begin with
        more("9,15"),
        f"({gap}{four}{gap}{four}{gap}{four})(?:{gap}[0-9]{more('0,2')})?",
        f"{gap}{four}{gap}{four}{gap}[0-9]{more('0,2')}",
        f"{gap}[0-9]{more('5')}{gap}[0-9]{more('3,4')}",
        f"{more('4')}{gap}[0-9]{more('7')}",
        f"{more('2')}{gap}[0-9]{more('12')}",
    )
    # The class comes first and the look behind it: `re` then skips to the next such character.
    return re.compile(f"[2-689](?<![0-9]{{2}})(?=({more('3')}(?:{'|'.join(shapes)})(?![0-9])))")


_PLAIN: Final = _pattern("")
_TOLERANT: Final = _pattern(f"{FILL}{{0,8}}")

_TRACK: Final = re.compile(
    r"[=D][0-9]{2}(?:0[1-9]|1[0-2])[0-9]{3,30}\??"  # the second: =YYMM, service code, …
    r"|\^[^^\n?]{2,26}\^[0-9]{4}[0-9A-Z]{0,60}\??"  # the first: ^NAME^YYMM…
)
_SENTINEL: Final = re.compile(r"(?:%?B|;)\Z")
_NOT_A_DIGIT: Final = re.compile(r"[^0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardNumber:
    """A card number in a text, or a magnetic track that begins with one.

    Attributes:
        start, end: where to cut.
        digits: the number itself; never print it.
        is_track: whether what follows the number belongs to a track.
    """

    start: int
    end: int
    digits: str
    is_track: bool


def card_numbers(text: str, *, is_folded: bool) -> Iterator[CardNumber]:
    """Find the card numbers of a text, as it stands or folded, in order and apart."""
    done = 0
    for match in (_TOLERANT if is_folded else _PLAIN).finditer(text):
        start = match.start()
        if start < done:
            continue  # nobody looks into what is hidden: three times as fast on endless groups
        for end in (match.end(1), match.end(2)):  # with a stray group behind 16 digits, or without
            digits = text[start:end] if end > 0 else ""
            if not digits.isdecimal():
                digits = _NOT_A_DIGIT.sub("", digits)
            if _pays(digits) and not _is_other(text, start, end, digits):
                found = _with_its_track(text, start, end, digits)
                done = found.end
                yield found
                break


def _pays(digits: str) -> bool:
    return bool(_ISSUED.fullmatch(digits) or _ALLOWED.fullmatch(digits)) and has_check_digit(digits)


_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")


def has_check_digit(digits: str) -> bool:
    """Whether ASCII digits end in the check digit of Luhn's formula."""
    plain = digits.encode()[::-1]
    return sum(plain[::2] + plain[1::2].translate(_DOUBLED)) % 10 == 48 * len(plain) % 10


def _with_its_track(text: str, start: int, end: int, digits: str) -> CardNumber:
    track = _TRACK.match(text, end)
    if track is None:
        return CardNumber(start=start, end=end, digits=digits, is_track=False)
    sentinel = _SENTINEL.search(text, max(0, start - 2), start)
    start = start if sentinel is None else sentinel.start()
    return CardNumber(start=start, end=track.end(), digits=digits, is_track=True)


# -- what looks like a card number and is something else -------------------------------------------


def _is_other(text: str, start: int, end: int, digits: str) -> bool:
    is_grouped = not text[start:end].replace(FILL, "").isdecimal()
    others = _OTHERS_IN_GROUPS if is_grouped else _OTHERS
    return any(says(text, start, end, digits) for says in others)


def _within(pattern: re.Pattern[str], length: int, text: str, start: int, end: int) -> bool:
    around = pattern.finditer(text, max(0, start - length), end + length)
    return any(each.start() <= start and end <= each.end() for each in around)


_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}")


def _is_uuid(text: str, start: int, end: int, _digits: str) -> bool:
    return _within(_UUID, 36, text, start, end)


_TRACE: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def _is_trace(text: str, start: int, end: int, _digits: str) -> bool:
    """W3C trace context; one span id in two thousand has decimal digits only."""
    return _within(_TRACE, 55, text, start, end)


_IBAN: Final = re.compile(
    r"(?<![0-9A-Za-z])[A-Z]{2}[0-9]{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)"
    r"(?![0-9A-Za-z])"
)


def _is_iban(text: str, start: int, end: int, _digits: str) -> bool:
    for each in _IBAN.finditer(text, max(0, start - 42), end + 42):
        words = each.group().split(" ")
        while each.start() <= start and words:
            whole = " ".join(words)
            if end > each.start() + len(whole):
                break
            if _has_iban_check(whole.replace(" ", "")):
                return True
            words.pop()  # the word behind it is none of it
    return False


def _has_iban_check(iban: str) -> bool:
    return int("".join(str(int(each, 36)) for each in iban[4:] + iban[:4])) % 97 == 1


def _is_fraction(text: str, start: int, _end: int, _digits: str) -> bool:
    return bool(re.search(r"[0-9]\.\Z", text[max(0, start - 2) : start]))


_EAN: Final = 13
_PLUSSED: Final = 14
"""A telephone number has up to 15 digits; those of 15 would be American Express."""


def _is_phone(text: str, start: int, _end: int, digits: str) -> bool:
    is_german_mobile = len(digits) == _EAN and digits.startswith(("4915", "4916", "4917"))
    return is_german_mobile or (len(digits) <= _PLUSSED and text[start - 1 : start] == "+")


def _is_article(_text: str, _start: int, _end: int, digits: str) -> bool:
    """An EAN has 13 digits and a check digit of its own; Visa gave up that length long ago."""
    return (
        len(digits) == _EAN
        and (sum(map(int, digits[::2])) + 3 * sum(map(int, digits[1::2]))) % 10 == 0
    )


_HEX: Final = frozenset("0123456789abcdefABCDEF")
_LONGEST_HASH: Final = 128
_SPAN_ID: Final = 16
_SHORTEST_HASH: Final = 24


def _is_hash(text: str, start: int, end: int, _digits: str) -> bool:
    """Decimal digits within a long hexadecimal word: a hash, a trace id, an address."""
    if text[max(0, start - 2) : start] in {"0x", "0X"}:
        return True
    if text[start - 1 : start] not in _HEX and _TRACK.match(text, end):
        return False
    first, last = start, end
    while first > max(0, end - _LONGEST_HASH) and text[first - 1] in _HEX:
        first -= 1
    while last < min(len(text), start + _LONGEST_HASH) and text[last] in _HEX:
        last += 1
    beside = text[max(0, first - 1) : first] + text[last : last + 1]
    if last - first == end - start or any(each.isalnum() for each in beside):
        return False  # no letter of it is hexadecimal, or it is part of a longer word
    return last - first == _SPAN_ID or last - first >= _SHORTEST_HASH


_PARCEL: Final = re.compile(r"(?<![0-9A-Za-z])1Z[0-9A-Z]{16}(?![0-9A-Za-z])")


def _is_parcel(text: str, start: int, end: int, _digits: str) -> bool:
    return _within(_PARCEL, 18, text, start, end)


_LONGEST_COMMON: Final = 16
_NEAR: Final = 24
_CALLED_ID: Final = re.compile(
    r"(?:(?<![A-Za-z])[iI][dD]|(?<=[a-z])I[dD])[sS]?[\"'\\\s:=#(\[]{1,6}\Z"
)
_CALLED_CARD: Final = re.compile(r"(?:card|(?<![a-z])pan|(?<![a-z])cc)[^\n]{0,12}\Z", re.IGNORECASE)


def _is_id(text: str, start: int, _end: int, digits: str) -> bool:
    """A 64-bit id has as many digits as the longest cards: what is called an id is one."""
    if len(digits) <= _LONGEST_COMMON:
        return False
    before = text[max(0, start - _NEAR) : start]
    if _CALLED_ID.search(before):
        return True
    return not _ISSUED.fullmatch(digits) and not _CALLED_CARD.search(before)


Other = Callable[[str, int, int, str], bool]
_OTHERS: Final[tuple[Other, ...]] = (
    _is_fraction,
    _is_phone,
    _is_article,
    _is_hash,
    _is_iban,
    _is_parcel,
    _is_trace,
    _is_id,
)
_OTHERS_IN_GROUPS: Final[tuple[Other, ...]] = (_is_uuid, _is_iban)
