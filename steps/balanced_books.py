"""The checkout's closing check: a completed order is paid, a compensated one is not.

completed      captured minus refunded is the price, and nothing is held beside it
compensated    everything is given back, and nothing is held
pending        an accepted refund is waited for; after its deadline a person has to look
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from orchestrator.closing import Close, Closing, HoldOn, Stop
from steps.money import Money

REFUND_DEADLINE: Final = timedelta(days=10)
"""How long an accepted refund may stay pending."""


def balanced_books(closing: Closing) -> Close | HoldOn | Stop:
    """Let the saga end only when the money is where its end says it is."""
    currency = closing.payload["currency"]
    price = closing.payload["amount_minor"] if closing.outcome == "completed" else 0
    for each, balance in closing.books.items():
        wanted = price if each == currency else 0
        if balance.kept != wanted or balance.held:
            kept, held = _money(balance.kept, each), _money(balance.held, each)
            return Stop(
                question=f"The saga would be {closing.outcome}, yet {kept} is with us instead of "
                f"{_money(wanted, each)}, and {held} is on hold: who has to get what?"
            )
    if price and currency not in closing.books:
        return Stop(question=f"The order of {_money(price, currency)} was never paid: why?")
    pending = [each.since for each in closing.movements if each.is_pending]
    return HoldOn(until=min(pending) + REFUND_DEADLINE) if pending else Close()


def _money(minor: int, currency: str) -> Money:
    return Money(minor=minor, currency=currency)
