"""What was pinned to a payment or a refund, to find it by later or to see it again.

Callers pin metadata; the gateway itself pins what the issuer said of a card.

Notes lie beside the ledger, in the same file and the same transactions, and may change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from steps.gateways.payment import CardChecks, CheckResult
from steps.gateways.sandbox.ledger import Ledger

_AVS: Final = "card_checks.avs"
_CVV: Final = "card_checks.cvv"
AUTHENTICATED_NOTE: Final = {"card_checks.authenticated": "yes"}
"""The note on a payment whose payer passed a challenge."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS note (
    reference TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (reference, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS note_value_in_any_case ON note (name, value COLLATE NOCASE);
"""


class Notes:
    """Names and values by reference. Write inside a transaction of the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._db = ledger.database
        self._db.executescript(_SCHEMA)

    def pin(self, reference: str, notes: Mapping[str, str]) -> None:
        """Add notes; an empty value takes the note of that name away."""
        for name, value in notes.items():
            if value:
                self._db.execute(
                    "INSERT OR REPLACE INTO note VALUES (?, ?, ?)", (reference, name, value)
                )
            else:
                self._db.execute(
                    "DELETE FROM note WHERE reference = ? AND name = ?", (reference, name)
                )

    def of(self, reference: str) -> dict[str, str]:
        rows = self._db.execute("SELECT name, value FROM note WHERE reference = ?", (reference,))
        return {row["name"]: row["value"] for row in rows}

    def bearing(self, name: str, value: str) -> list[str]:
        """The references of everything that bears this note, in order; case is not told apart."""
        rows = self._db.execute(
            "SELECT reference FROM note WHERE name = ? AND value = ? COLLATE NOCASE "
            "ORDER BY reference",
            (name, value),
        )
        return [row["reference"] for row in rows]


def notes_of(checks: CardChecks) -> dict[str, str]:
    """The notes that keep what the issuer said; what was not told is no note."""
    told = {_AVS: checks.avs, _CVV: checks.cvv}
    return {name: value for name, value in told.items() if value is not None}


def checks_in(notes: Mapping[str, str]) -> CardChecks:
    """What these notes keep of an authorized payment; the gateway always knows who passed."""
    avs, cvv = notes.get(_AVS), notes.get(_CVV)
    return CardChecks(
        avs=CheckResult(avs) if avs else None,
        cvv=CheckResult(cvv) if cvv else None,
        authenticated=notes.items() >= AUTHENTICATED_NOTE.items(),
    )
