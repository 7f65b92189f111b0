"""``make lies N=1000 SEED=1``: false assertions about money, and what became of the sagas.

Checkouts are parked for many reasons over a real gateway. Then somebody says something about each:
mostly lies (a wrong reference, "not done" of what is done, "skip it"), some with a second person,
real or not, some from a machine that cannot reach the gateway; and some truths, which must be
taken. The gateway's ledger is the judge: no saga may end `completed` or `compensated` while it
disagrees, no lie may be believed on one person's word, and no truth may be refused.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import AmendsError
from orchestrator.state import State
from orchestrator.storage import migrate
from orchestrator.storage.database import create_engine
from recovery.operator.identity import Identity, IdentityKind
from recovery.operator.operator import Operator
from recovery.operator.refusals import RefusedError
from recovery.operator.verbs import (
    Abandon,
    By,
    Confirm,
    MarkDone,
    MarkNotDone,
    Resolve,
    Retry,
    Skip,
    Verb,
)
from steps.gateways.payment import CaptureRequest, ChargeRequest, RefundRequest
from steps.gateways.sandbox.judge import SandboxJudge
from steps.gateways.sandbox.process import SandboxProcess
from steps.money import Money
from steps.storage.schema import SHOP_SCHEMA
from tests.lies.shop import CALL_SECONDS, PRICE, QUIET_SECONDS, Parked, Shop
from tests.servers import scratch
from workers.local_servers.running_servers import start

TRUTHS = 0.2
"""The share of assertions that are true."""

UNREACHABLE = 0.2
"""The share of lies that are told where the gateway cannot be asked."""

HALF = 0.5

HONEST = By(
    actor="hana",
    reason="the world is healed",
    identity=Identity(kind=IdentityKind.OS_USER, name="h"),
)
LIAR = Identity(kind=IdentityKind.OS_USER, name="ada")

CONFIRMERS: dict[str, Identity | None] = {
    "nobody": None,
    "the same person": LIAR,
    "the same person, upper case": Identity(kind=IdentityKind.OS_USER, name="ADA"),
    "the same person, by a token": Identity(kind=IdentityKind.TOKEN, name="ada-2"),
    "a shared role": Identity(kind=IdentityKind.SHARED_ROLE, name="app"),
    "a colluder": Identity(kind=IdentityKind.OS_USER, name="bob"),
    "a second colluder": Identity(kind=IdentityKind.OS_USER, name="eve"),
}

PARKING: dict[str, tuple[str, str | None, str, str | None, bool, bool]] = {
    # name: step, turned round after, operation that fails, its fault, of the undo, it landed
    "authorization unknown, held": (
        "authorize_payment",
        None,
        "authorize",
        "drop_after",
        False,
        True,
    ),
    "authorization unknown, not held": (
        *("authorize_payment", None, "authorize"),
        *("drop_before", False, False),
    ),
    "capture unknown, taken": ("capture_payment", None, "capture", "drop_after", False, True),
    "capture unknown, not taken": ("capture_payment", None, "capture", "drop_before", False, False),
    "shipment unknown, shipped": ("create_shipment", None, "ship", "drop_after", False, True),
    "shipment unknown, not shipped": ("create_shipment", None, "ship", "drop_before", False, False),
    "void unknown, let go": (
        "authorize_payment",
        "authorize_payment",
        "void",
        "drop_after",
        True,
        True,
    ),
    "void unknown, held": (
        "authorize_payment",
        "authorize_payment",
        "void",
        "drop_before",
        True,
        False,
    ),
    "refund unknown, given back": (
        *("capture_payment", "capture_payment", "refund"),
        *("drop_after", True, True),
    ),
    "refund unknown, not given back": (
        *("capture_payment", "capture_payment", "refund"),
        *("drop_before", True, False),
    ),
    "refund pending": (
        "capture_payment",
        "capture_payment",
        "refund",
        "refund_pending",
        True,
        False,
    ),
    "refund settled, not told": (
        *("capture_payment", "capture_payment", "refund"),
        *("refund_pending", True, True),
    ),
    "refund failed, not told": (
        *("capture_payment", "capture_payment", "refund"),
        *("refund_pending", True, False),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion:
    """What is said of an order."""

    kind: str
    verb: Verb
    is_true: bool


def main() -> int:
    """Tell the lies, print what became of them, and return 1 if one of them paid."""
    parser = argparse.ArgumentParser(prog="make lies", description=__doc__)
    parser.add_argument("--n", type=int, default=1000, help="false assertions")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with _shop() as shop:
        return Lies(shop, arguments.n, arguments.seed).told()


@contextmanager
def _shop() -> Iterator[Shop]:
    with (
        tempfile.TemporaryDirectory(prefix="amends-lies-") as directory,
        start(scratch("amends-lies-"), durable=False, watchdog=True, ephemeral=True) as servers,
        SandboxProcess.start(Path(directory) / "ledger.sqlite") as gateway,
        SandboxJudge(gateway.base_url) as judge,
    ):
        engine = create_engine(servers.postgres.create_database("lies"))
        migrate.upgrade(engine)
        migrate.upgrade(engine, SHOP_SCHEMA)
        shop = Shop(engine, judge, gateway.base_url)
        try:
            yield shop
        finally:
            shop.close()
            engine.dispose()


class Lies:
    """One run: park, say, heal, judge."""

    def __init__(self, shop: Shop, count: int, seed: int) -> None:
        self._shop = shop
        self._count = count
        self._seed = seed
        self._dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._became: dict[tuple[bool, str], Counter[str]] = defaultdict(Counter)
        self._problems: list[str] = []
        self._ends: Counter[str] = Counter()
        self._lies = 0
        self._litter: list[Callable[[], None]] = []
        self._last_parked = 0.0

    def told(self) -> int:
        began = time.monotonic()
        decoys = self._decoys()
        parked = self._parked(round(self._count / (1 - TRUTHS)))
        time.sleep(max(0.0, QUIET_SECONDS - (time.monotonic() - self._last_parked)))
        for each in parked:
            self._say(each, self._assertion(each, decoys))
        healed: list[tuple[Verb, By]] = [(Retry(), HONEST)] * 2
        for each in parked:
            self._judge(each, self._shop.goes_on(each.saga_id, healed))
        return self._printed(len(parked), time.monotonic() - began)

    # -- parking -----------------------------------------------------------------------------------

    def _parked(self, count: int) -> list[Parked]:
        """Bring sagas to a stop; nobody can ask the gateway meanwhile."""
        judge = self._shop.judge
        judge.script("drop_before", operation="find", times=None)
        names = list(PARKING)
        parked = [self._park(f"o-{n}", names[n % len(names)]) for n in range(count)]
        print(f"{count} sagas parked", flush=True)
        judge.clear_faults()
        self._last_parked = time.monotonic()
        for each in parked:
            self._learn(each)
        return parked

    def _park(self, order: str, scenario: str) -> Parked:
        step, turned_after, operation, fault, undo, landed = PARKING[scenario]
        shop = self._shop
        rule = shop.judge.script(fault or "", operation=operation, order_reference=order, times=1)
        assert rule
        saga_id = shop.starts(order)
        if turned_after is not None:
            shop.works(saga_id, until=turned_after)
            shop.client.cancel(saga_id, reason="changed their mind", actor="shopper")
        shop.works(saga_id)
        return Parked(
            order=order, saga_id=saga_id, scenario=scenario, step=step, undo=undo, landed=landed
        )

    def _learn(self, parked: Parked) -> None:
        """What is true: the gateway's own names."""
        payments = self._shop.payments(parked.order)
        if payments:
            parked.payment = payments[0].reference
        if parked.step == "create_shipment":
            found = self._shop.parcel(parked.order)
            parked.reference = found
            return
        refunds = payments[0].refunds if payments else ()
        if parked.scenario.startswith("refund"):
            parked.reference = refunds[0].reference if refunds else None
            if parked.scenario in ("refund settled, not told", "refund failed, not told"):
                assert parked.reference is not None, parked
                failed = parked.scenario == "refund failed, not told"
                self._shop.judge.end_refund(parked.reference, failed=failed)
            return
        parked.reference = parked.payment

    # -- what is said ------------------------------------------------------------------------------

    def _assertion(self, parked: Parked, decoys: dict[str, str]) -> Assertion:
        if parked.scenario != "refund pending" and self._dice.random() < TRUTHS:
            return self._truth(parked)
        return self._dice.choice(self._false(parked, decoys))

    def _truth(self, parked: Parked) -> Assertion:
        if not parked.landed:
            return Assertion(kind="not done", verb=MarkNotDone(step=parked.step), is_true=True)
        return Assertion(
            kind="done", verb=MarkDone(step=parked.step, reference=parked.reference), is_true=True
        )

    def _false(self, parked: Parked, decoys: dict[str, str]) -> list[Assertion]:
        step = parked.step
        found = [
            self._done(step, kind, reference)
            for kind, reference in {"nonsense": f"zz-{parked.order}", **decoys}.items()
        ]
        if step != "create_shipment":
            found += self._of_this_order(parked)
        if parked.landed:
            takes_back = self._dice.random() < HALF and not parked.undo
            kind = "not done, and taken back" if takes_back else "not done"
            denial = MarkNotDone(step=step, take_back=takes_back)
            found.append(Assertion(kind=kind, verb=denial, is_true=False))
        elif parked.payment is not None and step != "create_shipment":
            found.append(self._done(step, "the payment, which stands otherwise", parked.payment))
        if parked.scenario in ("refund pending", "refund failed, not told"):
            found.append(self._done(step, "the refund, which is not final", parked.reference))
        if parked.scenario == "refund pending":
            found.append(Assertion(kind="not done", verb=MarkNotDone(step=step), is_true=False))
        found.append(Assertion(kind="not needed", verb=Skip(step=step), is_true=False))
        found.append(
            Assertion(
                kind="closed as it stands",
                verb=Resolve() if self._dice.random() < HALF else Abandon(),
                is_true=False,
            )
        )
        return found

    def _done(self, step: str, kind: str, reference: str | None) -> Assertion:
        verb = MarkDone(step=step, reference=reference, result=None, take_back=False, movements=())
        return Assertion(kind=f"done: {kind}", verb=verb, is_true=False)

    def _of_this_order(self, parked: Parked) -> list[Assertion]:
        """Other payments of the very same order; they are gone again once it was said."""
        kinds: dict[str, tuple[int, str, str]] = {
            "same order, other amount": (PRICE - 1, "EUR", "held"),
            "same order, other currency": (PRICE, "USD", "held"),
            "same order, voided": (PRICE, "EUR", "voided"),
            "same order, given back": (PRICE, "EUR", "refunded"),
        }
        kind = self._dice.choice(list(kinds))
        minor, currency, status = kinds[kind]
        if parked.undo and status != "held":
            return []  # that is something else than what is to be undone, see "another order's"
        reference = self._payment(parked.order, minor, currency, status)

        def cleans_up() -> None:
            if status == "held":
                self._shop.gateway.void(
                    reference, key=f"clean-{reference}", timeout_seconds=CALL_SECONDS
                )

        verb = MarkDone(step=parked.step, reference=reference)
        self._litter.append(cleans_up)
        return [Assertion(kind=f"done: {kind}", verb=verb, is_true=False)]

    def _decoys(self) -> dict[str, str]:
        """Payments of other orders, in every state."""
        return {
            f"another order's, {status}": self._payment(f"decoy-{status}", PRICE, "EUR", status)
            for status in ("held", "captured", "voided", "refunded")
        } | {"another order's refund": self._refund("decoy-refund")}

    def _payment(self, order: str, minor: int, currency: str, status: str) -> str:
        gateway, money = self._shop.gateway, Money(minor=minor, currency=currency)
        unique = f"{order}-{minor}-{currency}-{status}"
        request = ChargeRequest(amount=money, token="tok_ok", order_reference=order)
        payment = gateway.authorize(request, key=f"a-{unique}", timeout_seconds=CALL_SECONDS)
        name = payment.reference
        if status in ("captured", "refunded"):
            taking = CaptureRequest(reference=name, amount=money)
            gateway.capture(taking, key=f"c-{unique}", timeout_seconds=CALL_SECONDS)
        if status == "refunded":
            giving = RefundRequest(reference=name, amount=money)
            gateway.refund(giving, key=f"r-{unique}", timeout_seconds=CALL_SECONDS)
        if status == "voided":
            gateway.void(name, key=f"v-{unique}", timeout_seconds=CALL_SECONDS)
        return name

    def _refund(self, order: str) -> str:
        self._payment(order, PRICE, "EUR", "refunded")
        return self._shop.payments(order)[0].refunds[0].reference

    # -- saying it ---------------------------------------------------------------------------------

    def _say(self, parked: Parked, assertion: Assertion) -> None:
        by = By(actor="ada", reason="I saw it", identity=LIAR)
        is_blind = not assertion.is_true and self._dice.random() < UNREACHABLE
        desk = self._shop.blind_desk if is_blind else self._shop.desk
        confirmer = "nobody" if assertion.is_true else self._dice.choice(list(CONFIRMERS))
        try:
            said = desk.act(parked.saga_id, assertion.verb, by)
        except RefusedError as refusal:
            became = "too early" if refusal.possible_from else "refused"
            parked.said.append(str(refusal))
        except AmendsError as error:
            became, parked.said = "refused", [str(error)]
        else:
            is_assertion = said.assertion is not None
            became = self._confirmed(parked, desk, confirmer) if is_assertion else "taken"
        while self._litter:
            self._litter.pop()()
        where = ", gateway unreachable" if is_blind else ""
        self._note(parked, assertion, f"{assertion.kind}{where}", became)

    def _confirmed(self, parked: Parked, desk: Operator, confirmer: str) -> str:
        identity = CONFIRMERS[confirmer]
        if identity is None:
            return "pending"
        by = By(actor=f"not ada {confirmer}", reason="so did I", identity=identity)
        try:
            desk.act(parked.saga_id, Confirm(), by)
        except AmendsError as error:
            parked.said.append(str(error))
            return "pending"
        if "colluder" not in confirmer:
            self._problems.append(f"{parked.order}: {confirmer} confirmed it")
        return "by word of both"

    def _note(self, parked: Parked, assertion: Assertion, kind: str, became: str) -> None:
        self._became[assertion.is_true, kind][became] += 1
        self._lies += not assertion.is_true
        told = f"{parked.order} ({parked.scenario}): {kind}: {became}. {' '.join(parked.said)}"
        harmless = isinstance(assertion.verb, Resolve | Abandon) or (
            isinstance(assertion.verb, Skip) and parked.undo and not parked.landed
        )  # no effect is known and none is there: there is nothing to undo
        if assertion.is_true and became != "taken":
            self._problems.append(f"a truth was not taken: {told}")
        if not assertion.is_true and became == "taken" and not harmless:
            self._problems.append(f"a lie was believed: {told}")
        parked.said = [told]

    # -- judging -----------------------------------------------------------------------------------

    def _judge(self, parked: Parked, state: State) -> None:
        self._ends[state.value] += 1
        totals = self._shop.judge.totals_of(parked.order)
        told = parked.said[-1]
        by_word = "by word of both" in told
        if by_word and state in (State.COMPLETED, State.COMPENSATED):
            self._problems.append(f"{state} by a word: {told}")
        if state is State.COMPLETED and (
            totals is None
            or (totals.kept_minor, totals.open_holds_count, totals.shipments_count) != (PRICE, 0, 1)
        ):
            self._problems.append(f"completed while the ledger disagrees: {told} {totals}")
        if state is State.COMPENSATED and totals is not None and not totals.is_clean:
            self._problems.append(f"compensated while the ledger disagrees: {told} {totals}")

    def _printed(self, count: int, seconds: float) -> int:
        for is_true, title in ((False, "lies"), (True, "truths")):
            print(f"\n{title}, by kind, and what became of them")
            for (truth, kind), became in sorted(self._became.items()):
                if truth is is_true:
                    words = ", ".join(f"{count} {what}" for what, count in sorted(became.items()))
                    print(f"  {kind:<52} {words}")
        print("\nhow the sagas ended: " + _counted(self._ends))
        for each in self._problems[:20]:
            print(f"PROBLEM {each}")
        verdict = "0 of them paid" if not self._problems else f"{len(self._problems)} PROBLEMS"
        print(
            f"\nseed {self._seed}: {self._lies} lies and {count - self._lies} truths on {count} "
            f"sagas in {seconds:.0f} s: {verdict} (0 of n means less than 3/n)"
        )
        return 1 if self._problems or self._lies < self._count * 0.9 else 0


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counter.most_common())


if __name__ == "__main__":
    sys.exit(main())
