"""What is sensitive because of the name in front of it: ``cvv: 123``, ``"card_number": "…"``.

A field of an object is judged as the text ``name=value``, so there is one rule for both. The
patterns take the names in either case but begin with a plain class of characters: `re` skips to
the next of them. A mark of ours names nothing: ``[REDACTED_CVV] 200``.
"""

from __future__ import annotations

import re
from typing import Final

from orchestrator.redaction.folding import FILL

_SPACE: Final = rf"[\s{FILL}]"
_QUOTES: Final = r"[\"'\\\])]"
_OPENS: Final = rf"[\s{FILL}\"'\\\[(>]"
_TOLD: Final = rf"{_QUOTES}{{0,4}}{_SPACE}{{0,3}}[:=>]{_OPENS}{{0,6}}"
_BETWEEN: Final = rf"{_QUOTES}{{0,4}}{_SPACE}{{0,3}}(?:is|was|[:=>#|-])?{_OPENS}{{0,6}}"
_SHORT: Final = rf"[0-9](?:{FILL}{{0,8}}[0-9]){{2,3}}(?![.]?[0-9]|-[0-9])"
_LONG: Final = rf"[0-9](?:[ ._{FILL}-]{{0,8}}[0-9]){{11,18}}(?![0-9])"

CARD_DATA: Final = re.compile(
    r"[cCpPsS](?<!REDACTED_.)(?i:"
    r"(?:(?<=c)(?:v[vcn]2?|vd|av2?|ard[ _-]?(?:security|verification)[ _-]?(?:code|value|number))"
    r"|(?<=s)ecurity[_-]?code)"
    rf"(?:[ _-]?(?:code|number|value))?{_BETWEEN}(?P<code>{_SHORT})"
    r"|(?:(?<=c)(?:ard|c)[ _-]?(?:number|num|nr|no|pan)[.]?"
    r"|(?<=p)rimary[ _-]?account[ _-]?number"
    r"|(?<![a-z]p)(?<=p)an)"
    rf"{_BETWEEN}(?P<number>{_LONG})"
    r")"
)
"""Names that mean nothing but a card's number or the three or four digits beside it."""

CARD_DATA_HINTS: Final = (
    *("card", "cvv", "cvc", "cvn", "cvd", "cav", "curity", "pan", "account"),
    *("ccn", "cc_n", "cc-n", "cc n"),
)
"""Without one of these, in small letters, a text has none of those names: much cheaper to see."""

SECRETS: Final = re.compile(
    r"[aAcCpPrRsS](?<!REDACTED_.)(?i:"
    rf"(?<![a-z]c)(?<=c)(?:id|sc){_TOLD}(?P<code>{_SHORT})"
    rf"|(?<=s)ecurity code{_BETWEEN}(?P<code_too>{_SHORT})"
    rf"|(?<![a-z]p)(?<=p)in(?:[ _-]?block)?{_TOLD}(?P<pin>[0-9A-F]{{4,16}})(?![0-9A-Z])"
    r"|(?:(?<=p)(?:assword|asswd|wd|rivate[ _-]?key)"
    r"|(?<=s)ecret(?:[ _-]?key)?"
    r"|(?<=a)(?:pi|ccess)[ _-]?(?:key|token)"
    r"|(?<=r)efresh[ _-]?token)"
    rf"(?:{FILL}{{0,8}}=|{_QUOTES}{{1,4}}{_SPACE}{{0,3}}[:=]){_SPACE}{{0,3}}{_QUOTES}{{0,4}}"
    r"(?P<secret>(?!none\b|null\b|true\b|false\b)[^\s\"'\\,;&*\[\](){}<>]{3,})"
    r")"
)
"""Names that mean it among other things (a customer's id, the code of a door), and passwords."""

SECRETS_HINTS: Final = (
    *("cid", "csc", "curity code", "pin", "pass", "pwd"),
    *("secret", "private", "api", "access", "refresh"),
)


def is_telling(name: str) -> bool:
    """Whether the name of a field may make its value sensitive."""
    small = name.lower()
    return any(each in small for each in (*CARD_DATA_HINTS, *SECRETS_HINTS))


SECRET_NAME: Final = re.compile(
    r"(?i:password|passwd|pwd|secret|secret_?key|api_?(?:key|token)|access_?(?:key|token)"
    r"|refresh_?token|private_?key)\Z"
)
"""The end of a field's name whose whole value is a secret."""
