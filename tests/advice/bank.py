"""The other side of the sagas here: it remembers what it did and what it answered, by key."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from orchestrator.context import CannotTell, Effect, Found, Movement, NotLanded, Standing
from orchestrator.errors import OutcomeUnknown, Retriable, Terminal

PRICE = 1990
MOVES = {"pay": "capture", "refund": "refund"}


@dataclass
class Bank:
    """A bank in trouble, until it is healed.

    Args:
        trouble: by operation, what goes wrong with it; a healed bank has none.
        effects: by key, the reference of what was done under it.
        kept: by key, the failure that every repetition is answered with, healed or not.
        refunded: by the reference of a refund, that of the payment it gave back.
        strict: the shop's model refuses the payloads that it took before.
        closes: the closing check allows the end.
    """

    trouble: dict[str, str] = field(default_factory=dict)
    effects: dict[str, tuple[str, str]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    refunded: dict[str, str] = field(default_factory=dict)
    strict: bool = False
    closes: bool = True
    _numbers: Any = field(default_factory=lambda: count(1))

    def heal(self) -> None:
        """Everything works again; what was answered for a key stays answered."""
        self.trouble = {}
        self.strict, self.closes = False, True

    def act(self, ctx: Any, operation: str) -> Effect:
        """Do it once for its key, or fail in the way that is in force."""
        key, trouble = ctx.idempotency_key, self.trouble.get(operation)
        if trouble == "down":
            raise Retriable("the bank refuses connections", code="down")
        if trouble == "answer lost":
            self._do(key, operation)
        if trouble in ("answer lost", "lost"):
            raise OutcomeUnknown("no answer", code="no_answer")
        if key not in self.effects and trouble in ("keeps", "refuses"):
            first = key not in self.kept
            self.kept.setdefault(key, trouble)
            if first and trouble == "keeps":
                raise OutcomeUnknown("a 500", code="http_500")
        kept = self.kept.get(key)
        if kept == "keeps":
            raise OutcomeUnknown("the same 500", code="http_500", is_kept=True)
        if kept == "refuses":
            raise Terminal("the account is closed", code="closed", decisive=True)
        name = self._do(key, operation)
        if operation == "refund":
            self.refunded[name] = ctx.effect.reference
        return self._effect(name, operation, pending=trouble == "pending")

    def ask(self, ctx: Any, operation: str) -> Effect | NotLanded | CannotTell:
        """Say whether it was done under the key, if lookups work."""
        if self.trouble.get("lookups") == "down":
            return CannotTell("lookups are down")
        done = self.effects.get(ctx.idempotency_key)
        return (
            NotLanded("nothing under the key") if done is None else self._effect(done[1], operation)
        )

    def look_up(self, ctx: Any, reference: str | None) -> Found | NotLanded:
        """Say what stands under a reference: a payment, or the refund of one."""
        payment = self.refunded.get(reference or "", reference or "")
        if payment not in self.done("pay"):
            return NotLanded(f"nothing under {reference}")
        refunds = [name for name, paid in self.refunded.items() if paid == payment]
        here = Standing(order=ctx.saga_key, amount_minor=PRICE, currency="EUR", status="taken")
        if ctx.direction != "compensate":
            theirs = replace(here, status="refunded") if refunds else here
            return Found(theirs=theirs, ours=here, effect=self._effect(payment, "pay"))
        ours = replace(here, status="refunded")
        if not refunds:
            return Found(theirs=here, ours=ours, untouched=True)
        return Found(theirs=ours, ours=ours, effect=self._effect(refunds[-1], "refund"))

    def done(self, operation: str) -> list[str]:
        """The references of all that was done."""
        return [name for what, name in self.effects.values() if what == operation]

    def _do(self, key: str, operation: str) -> str:
        name = f"{operation}-{next(self._numbers)}"
        return self.effects.setdefault(key, (operation, name))[1]

    def _effect(self, name: str, operation: str, *, pending: bool = False) -> Effect:
        moved = Movement(
            kind=MOVES.get(operation, operation),
            amount_minor=PRICE,
            currency="EUR",
            reference=name,
            pending=pending,
        )
        return Effect(
            value={"id": name}, reference=name, movements=[moved] if operation in MOVES else []
        )


BANK = Bank()
"""The one that the definitions of this process talk to."""
