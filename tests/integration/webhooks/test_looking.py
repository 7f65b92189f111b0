"""What webhooks lead to: the gateway is looked at, and the saga is told what is new, once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest

from orchestrator.entries import EffectReported, MovementSettled, SignalReceived, UndoFailed
from orchestrator.state import State
from steps.gateways.payment import ChargeRequest, ChargeResult
from steps.gateways.sandbox.client import SandboxGateway
from steps.money import Money
from steps.payment import AUTHENTICATED
from tests.integration.webhooks.world import PRICE, World, key_of


def challenged(shop: World, order: str) -> tuple[UUID, str]:
    """A checkout that waits for its payer, and the payment."""
    saga_id = shop.start(order, "tok_challenge")
    shop.runs_until(saga_id, State.WAITING)
    reference = shop.told(order, "payment.requires_action").told["payment"]["reference"]
    return saga_id, reference


def pays(shop: World, order: str, *, key: str) -> ChargeResult:
    """Charge for an order behind the saga's back."""
    gateway = SandboxGateway(shop.settings.gateway_url or "", timeout=timedelta(seconds=10))
    try:
        request = ChargeRequest(
            amount=Money(minor=PRICE, currency="EUR"), token="tok_ok", order_reference=order
        )
        return gateway.authorize(request, key=key, timeout_seconds=10)
    finally:
        gateway.close()


# A payer who answers.


@pytest.mark.parametrize(
    ("passed", "kind", "ends"),
    [
        (True, "payment.authorized", State.COMPLETED),
        (False, "payment.failed", State.COMPENSATED),
    ],
)
def test_a_payers_answer_wakes_the_saga_that_waits(
    shop: World, order: str, passed: bool, kind: str, ends: State
) -> None:
    saga_id, reference = challenged(shop, order)
    shop.judge.end_challenge(reference, passed=passed)

    receipt = shop.delivers(shop.told(order, kind))
    assert shop.inbox.process_due().told == 1

    shop.runs_until(saga_id, ends)
    assert shop.row_of(receipt).saga_id == saga_id


@pytest.mark.parametrize("looks", [True, False], ids=["looked up", "told again"])
@pytest.mark.parametrize(
    ("passed", "kind", "ends"),
    [
        (True, "payment.authorized", State.COMPLETED),
        (False, "payment.failed", State.COMPENSATED),
    ],
)
def test_a_payer_who_answers_while_the_answer_of_the_charge_is_lost_is_heard(
    shop: World, order: str, passed: bool, kind: str, ends: State, looks: bool
) -> None:
    """The charge is repeated, and its first answer with it, of a challenge that is over by then."""
    shop.judge.script("drop_after", operation="authorize", order_reference=order)
    saga_id = shop.start(order, "tok_challenge")
    while "StepUnknown" not in shop.kinds(saga_id):
        shop.works(saga_id)
    opened = shop.told(order, "payment.requires_action").told["payment"]["reference"]
    shop.judge.end_challenge(opened, passed=passed)
    shop.delivers(shop.told(order, kind))
    told = shop.inbox.process_due()
    if not looks:
        shop.judge.script("not_found", operation="find", reference=opened)
        shop.runs_until(saga_id, State.COMPLETED if passed else State.WAITING)
        shop.is_due_again()
        shop.inbox.process_due()

    shop.runs_until(saga_id, ends)
    assert (told.told, told.put_off) == ((1, 0) if passed else (0, 1))
    held = shop.judge.totals_of(order)
    assert held is None or held.open_holds_count == 0


def test_a_webhook_that_lies_of_a_challenge_changes_nothing(shop: World, order: str) -> None:
    """Signed well, and yet it is the payment that counts: nobody has passed the challenge."""
    saga_id, _ = challenged(shop, order)
    before = shop.kinds(saga_id)
    body = shop.told(order, "payment.requires_action").body
    lie = body.replace(b"requires_action", b"authorized")

    receipt = shop.delivers_body(lie.replace(b'"evt_', b'"evt_lie_'))
    assert shop.inbox.process_due().put_off == 1

    assert shop.kinds(saga_id) == before
    assert "does not show" in (shop.row_of(receipt).note or "")


def test_sixteen_deliveries_at_once_are_one_row_and_one_signal(shop: World, order: str) -> None:
    saga_id, reference = challenged(shop, order)
    shop.judge.end_challenge(reference, passed=True)
    heard = shop.told(order, "payment.authorized")

    with ThreadPoolExecutor(16) as pool:
        receipts = list(pool.map(lambda _: shop.delivers(heard), range(16)))
        reports = list(pool.map(lambda _: shop.inbox.process_due(), range(16)))

    assert sum(each.is_first for each in receipts) == 1
    assert sum(each.told for each in reports) == 1
    assert len(shop.rows()) == 1
    signals = [e.entry for e in shop.log(saga_id) if isinstance(e.entry, SignalReceived)]
    assert [each.name for each in signals] == [AUTHENTICATED]


def test_everything_delivered_backwards_and_twice_changes_nothing_of_a_finished_order(
    shop: World, order: str
) -> None:
    saga_id = shop.start(order)
    shop.runs_until(saga_id, State.COMPLETED)
    shop.post.hears(order, "payment.authorized", "payment.succeeded")
    before = shop.kinds(saga_id)

    for heard in [*reversed(shop.post.heard), *shop.post.heard]:
        shop.delivers(heard)
    report = shop.inbox.process_due()

    assert (report.nothing_new, report.told) == (2, 0)
    assert shop.kinds(saga_id) == before
    assert shop.inbox.process_due().total == 0


def test_a_webhook_before_its_saga_waits_for_it(shop: World, order: str) -> None:
    """The gateway may know of a payment whose start a fail-over has lost: the key is the same."""
    pays(
        shop,
        order,
        key=key_of(order),
    )
    receipt = shop.delivers(shop.told(order, "payment.authorized"))
    assert shop.inbox.process_due().put_off == 1
    assert "no saga" in (shop.row_of(receipt).note or "")

    saga_id = shop.start(order)
    shop.is_due_again()
    assert shop.inbox.process_due().put_off == 1
    shop.runs_until(saga_id, State.COMPLETED)
    shop.is_due_again()

    assert shop.inbox.process_due().nothing_new == 1
    assert shop.totals(order).authorizations_count == 1


def test_a_saga_is_found_by_what_its_payload_calls_the_order(shop: World, order: str) -> None:
    saga_id = shop.start(order, "tok_challenge", key=f"checkout of {order}")
    shop.runs_until(saga_id, State.WAITING)
    reference = shop.told(order, "payment.requires_action").told["payment"]["reference"]
    shop.judge.end_challenge(reference, passed=True)

    shop.delivers(shop.told(order, "payment.authorized"))

    assert shop.inbox.process_due().told == 1
    shop.runs_until(saga_id, State.COMPLETED)


@pytest.mark.parametrize("is_known", [True, False])
def test_of_a_pruned_saga_only_what_it_knew_is_no_question(
    shop: World, order: str, is_known: bool
) -> None:
    paid = pays(
        shop,
        order,
        key=key_of(order),
    )
    known = [paid.reference] if is_known else []
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO amends.tombstone (saga_id, definition, version, definition_hash, key, "
            'fingerprint, state, "references", ended_at) '
            "VALUES (gen_random_uuid(), 'checkout', 1, 'h', %(order)s, 'f', 'completed', "
            "%(known)s::text[], now())",
            {"order": order, "known": known},
        )
    receipt = shop.delivers(shop.told(order, "payment.authorized"))

    report = shop.inbox.process_due()

    assert (report.nothing_new, report.parked) == ((1, 0) if is_known else (0, 1))
    assert "pruned" in (shop.row_of(receipt).note or "")


# Effects that nobody knows of.


def test_a_charge_that_nobody_was_told_of_is_the_steps_own(shop: World, order: str) -> None:
    """The answer is lost and lookups fail: the step is unknown until its webhook proves it."""
    shop.judge.script("drop_after", order_reference=order, operation="authorize")
    shop.judge.script("error_before", operation="find", times=3)
    saga_id = shop.start(order)
    heard = None
    while heard is None:
        shop.works(saga_id)
        heard = next((each for each in shop.post.heard if order in each.body.decode()), None)
    assert "StepUnknown" in shop.kinds(saga_id)
    shop.judge.clear_faults()
    shop.delivers(heard)

    assert shop.inbox.process_due().told == 1

    shop.runs_until(saga_id, State.COMPLETED)
    assert sum(isinstance(e.entry, EffectReported) for e in shop.log(saga_id)) == 1
    assert shop.totals(order).kept_minor == PRICE


def test_a_second_charge_under_the_sagas_key_is_taken_back(shop: World, order: str) -> None:
    saga_id = shop.start(order)
    shop.runs_until(saga_id, State.COMPLETED)
    shop.judge.script("forget_key", order_reference=order, operation="authorize")
    second = pays(
        shop,
        order,
        key=key_of(order),
    )
    assert shop.totals(order).open_holds_count == 1
    heard = shop.post.until(
        lambda: next((e for e in shop.post.heard if second.reference in e.body.decode()), None)
    )

    for _ in range(2):
        shop.delivers(heard)
        shop.inbox.process_due()

    shop.runs_until(saga_id, State.COMPLETED)
    wait = shop.totals(order)
    assert (wait.kept_minor, wait.open_holds_count) == (PRICE, 0)
    assert sum(isinstance(e.entry, EffectReported) for e in shop.log(saga_id)) == 1


def test_a_charge_that_others_made_for_the_order_is_a_persons_to_judge(
    shop: World, order: str
) -> None:
    saga_id = shop.start(order)
    shop.runs_until(saga_id, State.COMPLETED)
    before = shop.kinds(saga_id)
    by_hand = pays(shop, order, key="by-hand")
    heard = shop.post.until(
        lambda: next((e for e in shop.post.heard if by_hand.reference in e.body.decode()), None)
    )

    receipt = shop.delivers(heard)
    assert shop.inbox.process_due().parked == 1

    assert shop.kinds(saga_id) == before
    row = shop.row_of(receipt)
    assert row.parked_at is not None
    assert row.due_at is not None
    assert by_hand.reference in (row.note or "")


# Refunds live on.


def refunding(shop: World, order: str) -> tuple[UUID, str]:
    """A checkout that is taken back, all but for a refund that is pending."""
    shop.judge.script("refuse", operation="ship", order_reference=order, times=None)
    shop.judge.script("refund_pending", operation="refund", order_reference=order, times=1)
    saga_id = shop.start(order)
    heard = None
    while heard is None:
        shop.works(saga_id)
        heard = next((e for e in shop.post.heard if e.told["type"] == "refund.created"), None)
    for _ in range(20):
        shop.works(saga_id)
    assert shop.state(saga_id) is State.COMPENSATING
    return saga_id, heard.told["refund"]["reference"]


def test_a_refund_that_settles_lets_the_saga_end(shop: World, order: str) -> None:
    saga_id, refund = refunding(shop, order)
    shop.judge.end_refund(refund, failed=False)
    heard = shop.post.until(
        lambda: next((e for e in shop.post.heard if e.told["type"] == "refund.updated"), None)
    )

    shop.delivers(heard)
    assert shop.inbox.process_due().told == 1

    shop.runs_until(saga_id, State.COMPENSATED)
    assert sum(isinstance(e.entry, MovementSettled) for e in shop.log(saga_id)) == 1


def test_a_refund_that_fails_later_is_made_again(shop: World, order: str) -> None:
    saga_id, refund = refunding(shop, order)
    shop.judge.end_refund(refund, failed=True)
    heard = shop.post.until(
        lambda: next((e for e in shop.post.heard if e.told["type"] == "refund.failed"), None)
    )

    for _ in range(2):
        shop.delivers(heard)
        shop.inbox.process_due()

    shop.runs_until(saga_id, State.COMPENSATED)
    assert sum(isinstance(e.entry, UndoFailed) for e in shop.log(saga_id)) == 1
    assert shop.totals(order).is_clean


def test_a_refund_that_fails_after_the_end_reopens_the_saga(shop: World, order: str) -> None:
    """It had settled, so the saga was over; the money came back to us all the same."""
    saga_id, refund = refunding(shop, order)
    shop.client.report_settled(saga_id, "capture_payment", refund, by="a report")
    shop.runs_until(saga_id, State.COMPENSATED)
    shop.judge.end_refund(refund, failed=True)
    heard = shop.post.until(
        lambda: next((e for e in shop.post.heard if e.told["type"] == "refund.failed"), None)
    )

    shop.delivers(heard)
    assert shop.inbox.process_due().told == 1

    assert shop.state(saga_id) is State.COMPENSATING
    shop.runs_until(saga_id, State.COMPENSATED)
    assert shop.totals(order).is_clean
