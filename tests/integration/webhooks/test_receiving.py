"""A delivery is verified, kept and committed, or refused with a reason."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy

from orchestrator.client import SagaClient
from orchestrator.errors import CardNumberError, LogUnavailableError
from orchestrator.storage.database import Database, create_engine
from steps.gateways.sandbox.signature import signed
from steps.gateways.webhooks import (
    WebhookReplayError,
    WebhookSignatureError,
    WebhookVerifier,
)
from steps.storage.webhook_inbox import KeptWebhook, WebhookOutcome, WebhookRows
from steps.webhooks.first_delivery import is_first_delivery
from steps.webhooks.inbox import (
    CLAIM,
    MAX_BODY_BYTES,
    MalformedWebhookError,
    OversizedWebhookError,
    Receipt,
    UnknownGatewayError,
    WebhookInbox,
)
from steps.webhooks.looking import Later, Look, Looking, Nothing, Seen
from tests.integration.engine import events, read_only
from workers.settings import Settings

SECRET = "whsec_of_these_tests"
EVENT = {
    "id": "evt_1",
    "type": "payment.authorized",
    "created_at": "2026-11-24T12:00:00+00:00",
    "payment": {"reference": "pay_1", "order_reference": "O-1", "key": "checkout-authorize-1"},
}
STRIPE_EVENT = {
    "id": "evt_1",
    "object": "event",
    "type": "payment_intent.succeeded",
    "created": 1_764_000_000,
    "data": {"object": {"id": "pi_1", "object": "payment_intent", "metadata": {}}},
}


SEEN = Seen(note="nothing")


class Door:
    """An inbox on a database whose looking is scripted: by default there is nothing to tell."""

    def __init__(self, url: str) -> None:
        self.engine: sqlalchemy.Engine = create_engine(url)
        self.looks: Callable[[], Look] = lambda: Nothing(seen=SEEN)
        self.inbox = WebhookInbox(
            WebhookRows(Database(self.engine)),
            {"sandbox": WebhookVerifier(SECRET), "stripe": WebhookVerifier(SECRET)},
            lambda *_: self.looks(),
        )

    def receives(self, event: Any = EVENT, *, gateway: str = "sandbox", **kwargs: Any) -> Receipt:
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        return self.inbox.receive(gateway, header(body, gateway, **kwargs), body)

    def rows(self) -> list[KeptWebhook]:
        return WebhookRows(Database(self.engine)).find(processed_too=True, limit=100)

    def sql(self, statement: str, role: str | None = None) -> list[Any]:
        with self.engine.begin() as connection:
            if role is not None:
                connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
            result = connection.exec_driver_sql(statement)
            return list(result.fetchall()) if result.returns_rows else []


def header(
    body: bytes, gateway: str = "sandbox", *, secret: str = SECRET, age: int = 0
) -> dict[str, str]:
    return {f"{gateway}-signature": signed(body, [secret], at=int(time.time()) - age)}


@pytest.fixture
def door(database: str) -> Iterator[Door]:
    made = Door(database)
    yield made
    made.engine.dispose()


# What is kept.


def test_a_delivery_is_kept_as_it_came_and_due_at_once(door: Door) -> None:
    body = json.dumps(EVENT, indent=3).encode()

    assert door.receives(body) == Receipt(event_id="evt_1", is_first=True)

    [row] = door.rows()
    assert (row.gateway, row.event_id, row.kind) == ("sandbox", "evt_1", "payment.authorized")
    assert (row.tries, row.processed_at, row.outcome) == (0, None, None)
    assert row.due_at is not None
    assert door.sql("SELECT body FROM shop.webhook") == [(body,)]


def test_it_is_committed_before_it_is_acknowledged(door: Door, database: str) -> None:
    door.receives()

    with psycopg.connect(database.replace("+psycopg", "")) as others:
        assert others.execute("SELECT event_id FROM shop.webhook").fetchall() == [("evt_1",)]


def test_a_second_delivery_is_no_second_row(door: Door) -> None:
    assert [door.receives().is_first for _ in range(3)] == [True, False, False]
    assert len(door.rows()) == 1


def test_an_event_that_was_processed_is_not_due_again_when_it_is_repeated(door: Door) -> None:
    door.receives()
    assert door.inbox.process_due().nothing_new == 1

    door.receives()

    assert door.inbox.process_due().total == 0


def test_gateways_and_accounts_have_ids_of_their_own(door: Door) -> None:
    door.receives()
    for account in ("acct_1", "acct_2"):
        door.receives(STRIPE_EVENT | {"account": account}, gateway="stripe")
    receipt = door.receives(STRIPE_EVENT, gateway="stripe")

    assert receipt.is_first
    assert len(door.rows()) == 4


def test_header_names_are_read_in_any_case(door: Door) -> None:
    body = json.dumps(EVENT).encode()
    [value] = header(body).values()

    assert door.inbox.receive("sandbox", {"SANDBOX-Signature": value}, body).is_first


# What is refused.


@pytest.mark.parametrize(
    ("kwargs", "refusal"),
    [
        ({"secret": "whsec_of_others"}, WebhookSignatureError),
        ({"age": 301}, WebhookReplayError),
        ({"age": -310}, WebhookReplayError),
    ],
)
def test_what_is_not_the_gateways_is_refused(
    door: Door, kwargs: dict[str, Any], refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        door.receives(**kwargs)
    assert door.rows() == []


def test_a_body_that_was_changed_is_refused(door: Door) -> None:
    body = json.dumps(EVENT).encode()

    with pytest.raises(WebhookSignatureError):
        door.inbox.receive("sandbox", header(body), body + b" ")
    with pytest.raises(WebhookSignatureError):
        door.inbox.receive("sandbox", {}, body)
    assert door.rows() == []


@pytest.mark.parametrize("gateway", ["adyen", "", "Stripe", "../stripe"])
def test_nobody_else_delivers_here(door: Door, gateway: str) -> None:
    with pytest.raises(UnknownGatewayError):
        door.receives(gateway=gateway)


def test_a_gateway_without_a_secret_delivers_nothing(database: str) -> None:
    engine = create_engine(database)
    rows = WebhookRows(Database(engine))
    inbox = WebhookInbox(rows, {"stripe": WebhookVerifier(SECRET)}, lambda *_: Nothing(seen=SEEN))
    body = json.dumps(EVENT).encode()

    with pytest.raises(UnknownGatewayError):
        inbox.receive("sandbox", header(body), body)
    engine.dispose()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"evt_1"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"id": NaN}',
        b'{"id": "evt_1", "id": "evt_2", "type": "t", "created_at": "2026-11-24T12:00:00Z"}',
        json.dumps({**EVENT, "id": ""}).encode(),
        json.dumps({**EVENT, "id": 7}).encode(),
        json.dumps({**EVENT, "id": "e" * 181}).encode(),
        json.dumps({**EVENT, "id": "evt\x00"}).encode(),
        json.dumps({**EVENT, "id": "evt\ud800"}).encode(),
        json.dumps({**EVENT, "type": None}).encode(),
        json.dumps({**EVENT, "created_at": "yesterday"}).encode(),
        json.dumps({**EVENT, "created_at": "2026-11-24T12:00:00"}).encode(),
    ],
)
def test_a_signed_body_that_is_no_event_is_refused_as_such(door: Door, body: bytes) -> None:
    with pytest.raises(MalformedWebhookError):
        door.receives(body)
    assert door.rows() == []


def test_a_body_of_any_size_is_not_read(door: Door) -> None:
    with pytest.raises(OversizedWebhookError):
        door.receives(b" " * (MAX_BODY_BYTES + 1), secret="nobody's")


def test_a_card_number_is_not_stored(door: Door) -> None:
    with pytest.raises(CardNumberError) as refused:
        door.receives({**EVENT, "note": "card 4111 1111 1111 1111"})

    assert "4111" not in str(refused.value)
    assert refused.value.field == "body.note"
    assert door.rows() == []


def test_without_a_database_the_sender_is_told_to_repeat(door: Door, database: str) -> None:
    door.receives({**EVENT, "id": "evt_0"})
    with read_only(database), pytest.raises(LogUnavailableError):
        door.receives()

    assert door.receives().is_first


def test_a_secret_is_changed_without_a_lost_delivery() -> None:
    """See `AMENDS_SANDBOX_WEBHOOK_SECRETS`; the verifier's own tests have every case."""
    settings = Settings.load(
        sandbox_webhook_secrets="new old@2999-01-01T00:00Z gone@2020-01-01T00:00Z"
    )
    verifier = WebhookVerifier(settings.webhook_secrets["sandbox"])

    for secret in ("new", "old"):
        verifier.verify(b"{}", header(b"{}", secret=secret)["sandbox-signature"])
    with pytest.raises(WebhookSignatureError):
        verifier.verify(b"{}", header(b"{}", secret="gone")["sandbox-signature"])
    assert "stripe" not in settings.webhook_secrets


# What waits.


def test_a_type_that_nobody_knows_is_kept_and_passed_over(door: Door) -> None:
    door.receives({**EVENT, "type": "payout.paid"})

    assert door.inbox.process_due().ignored == 1

    [row] = door.rows()
    assert (row.outcome, row.due_at) == ("ignored", None)


def test_one_that_fails_keeps_no_other_from_its_turn(door: Door) -> None:
    door.receives()
    door.receives({**EVENT, "id": "evt_2"})
    answers: Iterator[Look | Exception] = iter([ValueError("a bug"), Nothing(seen=SEEN)])

    def looks() -> Look:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    door.looks = looks
    report = door.inbox.process_due()

    assert (report.put_off, report.nothing_new) == (1, 1)
    [failed] = [each for each in door.rows() if each.due_at is not None]
    assert "a bug" in (failed.note or "")


def test_what_went_wrong_is_kept_in_words_that_can_be_stored(door: Door) -> None:
    """A gateway's message may hold anything; with NUL in it nothing after it got its turn."""

    def fails() -> Look:
        raise ValueError("card 4111 1111 1111 1111 \x00 \ud800 was refused")

    door.looks = fails
    door.receives()

    assert door.inbox.process_due().put_off == 1

    note = door.rows()[0].note or ""
    assert "was refused" in note
    assert "4111 1111" not in note


def test_a_reason_of_an_operator_is_kept_without_card_data(door: Door) -> None:
    door.receives()

    assert WebhookRows(Database(door.engine)).dismiss(door.rows()[0].id, "card 4111111111111111")

    assert "4111111111111111" not in (door.rows()[0].note or "")


def test_pauses_grow_and_end_in_front_of_a_person(door: Door) -> None:
    def fails() -> Look:
        raise ValueError("nobody answers")

    door.looks = fails
    door.receives()
    pauses = []
    for _ in range(4):
        door.sql("UPDATE shop.webhook SET due_at = clock_timestamp()")
        before = datetime.now(UTC)
        assert door.inbox.process_due().put_off == 1
        [row] = door.rows()
        assert row.due_at is not None
        pauses.append(round((row.due_at - before).total_seconds()))
    assert pauses == [1, 2, 4, 8]

    door.sql(
        "UPDATE shop.webhook SET received_at = received_at - interval '25 hours', due_at = now()"
    )
    with events() as heard:
        assert door.inbox.process_due().parked == 1

    [row] = door.rows()
    assert row.parked_at is not None
    assert row.due_at is not None  # once a day
    assert (row.due_at - datetime.now(UTC)).total_seconds() > 80_000
    assert [name for name, _ in heard] == ["webhook.parked"]


def _pause_after(door: Door, *, age: str, tries: int) -> float:
    """Seconds until it is due again after one more look, at that age and after so many tries."""
    door.sql(
        f"UPDATE shop.webhook SET due_at = clock_timestamp(), tries = {tries}, "  # noqa: S608
        f"received_at = clock_timestamp() - interval '{age}'"
    )
    before = datetime.now(UTC)
    assert door.inbox.process_due().put_off == 1
    [row] = door.rows()
    assert row.due_at is not None
    return (row.due_at - before).total_seconds()


def test_an_outage_of_the_gateway_puts_off_for_seconds_however_long_it_lasts(door: Door) -> None:
    door.looks = lambda: Later(reason="no answer", is_outage=True)
    door.receives()
    assert _pause_after(door, age="6 hours", tries=500) < 16


def test_however_often_it_was_tried_a_young_webhook_does_not_wait_for_long(door: Door) -> None:
    """An outage of the database counts tries too, and a payer has a quarter of an hour."""
    door.looks = lambda: Later(reason="not shown yet")
    door.receives()
    assert _pause_after(door, age="10 minutes", tries=12) < 31
    assert _pause_after(door, age="20 hours", tries=12) > 3_000


def test_a_claim_that_nobody_ends_is_due_again(door: Door) -> None:
    """Somebody died between the claim and the end of processing."""
    door.receives()
    rows = WebhookRows(Database(door.engine))
    dead = rows.claim(CLAIM)
    assert dead is not None
    assert door.inbox.process_due().total == 0  # it is taken
    door.sql("UPDATE shop.webhook SET due_at = clock_timestamp()")  # a minute later

    assert door.inbox.process_due().nothing_new == 1

    assert not rows.end(dead, WebhookOutcome.TOLD, "too late", None)
    assert door.rows()[0].outcome == "nothing_new"


def test_what_was_claimed_by_another_since_cannot_be_ended_or_put_off(door: Door) -> None:
    door.receives()
    rows = WebhookRows(Database(door.engine))
    first = rows.claim(timedelta(0))
    second = rows.claim(timedelta(minutes=1))
    assert first is not None
    assert second is not None

    assert not rows.end(first, WebhookOutcome.TOLD, "", None)
    assert rows.end(second, WebhookOutcome.NOTHING_NEW, "", None)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE shop.webhook SET due_at = NULL",
        "UPDATE shop.webhook SET processed_at = now(), due_at = NULL",
        "UPDATE shop.webhook SET processed_at = now(), outcome = 'told'",
        "UPDATE shop.webhook SET outcome = 'told'",
        "UPDATE shop.webhook SET outcome = 'lost', processed_at = now(), due_at = NULL",
    ],
)
def test_a_webhook_that_would_be_forgotten_is_refused(door: Door, statement: str) -> None:
    door.receives()
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        door.sql(statement)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("amends_worker", "UPDATE shop.webhook SET body = ''"),
        ("amends_worker", "UPDATE shop.webhook SET event_id = 'other'"),
        ("amends_worker", "DELETE FROM shop.webhook"),
        ("amends_worker", "TRUNCATE shop.webhook"),
        ("amends_client", "SELECT body FROM shop.webhook"),
        ("amends_client", "UPDATE shop.webhook SET due_at = now()"),
        ("amends_reader", "SELECT body FROM shop.webhook"),
        ("amends_janitor", "SELECT body FROM shop.webhook"),
        ("amends_janitor", "UPDATE shop.webhook SET due_at = now()"),
    ],
)
def test_no_role_may_do_more_than_its_part(door: Door, role: str, statement: str) -> None:
    door.receives()
    with pytest.raises(sqlalchemy.exc.ProgrammingError, match="permission denied"):
        door.sql(statement, role=role)


def test_each_role_can_do_its_part(door: Door) -> None:
    def as_role(role: str) -> Any:
        def connected(connection: Any, _record: Any) -> None:
            connection.autocommit = True
            connection.execute(f"SET ROLE {role}")
            connection.autocommit = False

        return connected

    url = door.engine.url.render_as_string(hide_password=False)
    client, worker, janitor, reader = (Door(url) for _ in ("client", "worker", "janitor", "reader"))
    for each, role in (
        (client, "amends_client"),
        (worker, "amends_worker"),
        (janitor, "amends_janitor"),
        (reader, "amends_reader"),
    ):
        sqlalchemy.event.listen(each.engine, "connect", as_role(role))

    assert client.receives().is_first
    assert worker.receives({**EVENT, "id": "evt_2"}).is_first
    assert worker.inbox.process_due().nothing_new == 2
    assert len(reader.rows()) == 2
    door.sql(
        "UPDATE shop.webhook SET processed_at = now() - interval '91 days' WHERE event_id = 'evt_1'"
    )
    assert WebhookRows(Database(janitor.engine)).prune(timedelta(days=90)) == 1
    for each in (client, worker, janitor, reader):
        each.engine.dispose()


def test_what_waits_is_never_pruned(door: Door) -> None:
    door.receives()
    door.sql("UPDATE shop.webhook SET received_at = now() - interval '1000 days'")

    assert WebhookRows(Database(door.engine)).prune(timedelta(days=90)) == 0


# What is told of an event that cannot be looked into.


def test_an_event_whose_object_cannot_be_read_waits_for_a_person(door: Door) -> None:
    client = SagaClient(door.engine)
    looking = Looking(Database(door.engine), client, {})
    door.looks = lambda: looking("sandbox", "evt_1", {"type": "payment.authorized"})
    door.receives()

    assert door.inbox.process_due().parked == 1


def test_a_gateway_that_cannot_be_asked_here_leaves_it_waiting(door: Door) -> None:
    looking = Looking(Database(door.engine), SagaClient(door.engine), {})
    door.looks = lambda: looking("sandbox", "evt_1", EVENT)
    door.receives()

    assert door.inbox.process_due().put_off == 1
    assert "AMENDS_GATEWAY" in (door.rows()[0].note or "")


def test_a_payment_of_another_product_of_the_account_is_none_of_ours(door: Door) -> None:
    looking = Looking(Database(door.engine), SagaClient(door.engine), {})
    door.looks = lambda: looking("stripe", "evt_1", STRIPE_EVENT)
    door.receives(STRIPE_EVENT, gateway="stripe")

    assert door.inbox.process_due().nothing_new == 1


def test_the_seeds_name_tells_a_first_delivery_once() -> None:
    class Seen:
        def __init__(self) -> None:
            self.ids: set[str] = set()

        def mark_seen(self, event_id: str, ttl_seconds: int) -> bool:
            assert ttl_seconds == 7 * 86_400
            is_new = event_id not in self.ids
            self.ids.add(event_id)
            return is_new

    store = Seen()
    assert [is_first_delivery(each, store) for each in ("evt_1", "evt_2", "evt_1")] == [
        True,
        True,
        False,
    ]
    with pytest.raises(ValueError, match="without an id"):
        is_first_delivery("", store)
