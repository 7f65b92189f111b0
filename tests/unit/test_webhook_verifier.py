"""Who may tell us something: signatures, their grammar, their age, and secrets that change."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.gateways.sandbox.signature import signed
from steps.gateways.webhooks import (
    MAX_HEADER_CHARACTERS,
    WebhookError,
    WebhookReplayError,
    WebhookSecret,
    WebhookSignatureError,
    WebhookVerifier,
)

NOW = 1_790_000_000
BODY = b'{"id": "evt_1"}'
MOMENT = datetime.fromtimestamp(NOW, UTC)


def verifier(*secrets: str | WebhookSecret, window: int = 300) -> WebhookVerifier:
    return WebhookVerifier(secrets or ("one",), window, clock=lambda: NOW)


def mark() -> str:
    return signed(BODY, ["one"], at=NOW).partition("v1=")[2]


def test_what_the_sandbox_signs_is_accepted() -> None:
    assert verifier().verify(BODY, signed(BODY, ["one"], at=NOW - 5)) == MOMENT - timedelta(
        seconds=5
    )


def test_what_stripes_own_library_accepts_is_accepted() -> None:
    stripe = pytest.importorskip("stripe")
    header = signed(BODY, ["one"], at=NOW)

    assert stripe.WebhookSignature.verify_header(BODY.decode(), header, "one", tolerance=None)
    assert verifier().verify(BODY, header) == MOMENT


@given(st.binary(max_size=200), st.integers(min_value=-300, max_value=300))
def test_any_bytes_signed_within_the_window_are_accepted(body: bytes, age: int) -> None:
    header = signed(body, ["one"], at=NOW - age)

    assert verifier().verify(body, header) == MOMENT - timedelta(seconds=age)


@given(st.binary(min_size=1, max_size=50), st.data())
def test_one_changed_byte_is_refused(body: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(body) - 1))
    flipped = data.draw(st.integers(1, 255))
    changed = body[:place] + bytes([body[place] ^ flipped]) + body[place + 1 :]

    with pytest.raises(WebhookSignatureError):
        verifier().verify(changed, signed(body, ["one"], at=NOW))


@given(st.binary(max_size=50), st.none() | st.text(max_size=300))
def test_whatever_arrives_is_refused_by_a_typed_error(body: bytes, header: str | None) -> None:
    with pytest.raises(WebhookError):
        verifier().verify(body, header)


PIECES = st.sampled_from(
    ["t", "v1", "v0", "=", ",", " ", str(NOW), "a" * 64, "é", "٣", "\udcff", "-1", mark()]
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_pieces_of_a_header_raise_nothing_untyped(header: str) -> None:
    with contextlib.suppress(WebhookError):
        verifier().verify(BODY, header)


@pytest.mark.parametrize("age", [301, 86_400, -301, -86_400, -(10**9)])
def test_a_signature_of_another_time_is_a_replay(age: int) -> None:
    with pytest.raises(WebhookReplayError):
        verifier().verify(BODY, signed(BODY, ["one"], at=NOW - age))


def test_the_age_of_a_forged_body_is_not_looked_at() -> None:
    with pytest.raises(WebhookSignatureError):
        verifier().verify(BODY, signed(BODY, ["another"], at=NOW - 9_999))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "t",
        f"v1={mark()}",
        f"t={NOW}",
        f"t=,v1={mark()}",
        f"t=-{NOW},v1={mark()}",
        f"t={NOW}.0,v1={mark()}",
        f"t={NOW},v0={mark()}",
        f"t={NOW},V1={mark()}",
        f"t={NOW},v1={mark().upper()}",
        f"t={NOW},v1={mark()[:-1]}",
        f"t={NOW},v1={mark()[:-1]}é",
        f"t={NOW},,v1={mark()}",
        f"t={NOW}\n,v1={mark()}",
    ],
)
def test_a_malformed_header_is_refused(header: str | None) -> None:
    with pytest.raises(WebhookSignatureError):
        verifier().verify(BODY, header)


@pytest.mark.parametrize(
    "seconds", ["1" + "0" * 400, "".join(chr(0x0660 + int(digit)) for digit in str(NOW))]
)
def test_a_time_in_other_than_few_ascii_digits_is_refused_however_signed(seconds: str) -> None:
    right = hmac.new(b"one", seconds.encode() + b"." + BODY, hashlib.sha256).hexdigest()

    with pytest.raises(WebhookSignatureError, match="names no time"):
        verifier().verify(BODY, f"t={seconds},v1={right}")


def test_a_header_that_is_too_long_is_not_read() -> None:
    padding = ",v0=" + "0" * MAX_HEADER_CHARACTERS

    with pytest.raises(WebhookSignatureError, match="too long"):
        verifier().verify(BODY, signed(BODY, ["one"], at=NOW) + padding)


def test_the_first_time_counts() -> None:
    right = f"t={NOW},t={NOW - 9_999},v1={mark()}"
    wrong = f"t={NOW - 9_999},t={NOW},v1={mark()}"

    assert verifier().verify(BODY, right) == MOMENT
    with pytest.raises(WebhookSignatureError):
        verifier().verify(BODY, wrong)


def test_any_v1_may_match_and_unknown_schemes_are_passed_over() -> None:
    header = f"t={NOW},v0=x,v1=é,v1={'0' * 64},v1={mark()},v9=y"

    assert verifier().verify(BODY, header) == MOMENT


def test_while_a_secret_changes_both_are_accepted() -> None:
    both = verifier("new", WebhookSecret(value="old", valid_until=MOMENT + timedelta(hours=1)))

    for secret in ("new", "old"):
        assert both.verify(BODY, signed(BODY, [secret], at=NOW)) == MOMENT


def test_a_secret_is_refused_from_its_end_on() -> None:
    changed = verifier("new", WebhookSecret(value="old", valid_until=MOMENT))

    with pytest.raises(WebhookSignatureError):
        changed.verify(BODY, signed(BODY, ["old"], at=NOW))


@pytest.mark.parametrize("secrets", [(), "", ("one", ""), "sécret"])
def test_a_verifier_without_a_secret_is_not_made(secrets: str | tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="secret"):
        WebhookVerifier(secrets)


def test_an_end_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        WebhookSecret(value="one", valid_until=datetime(2026, 1, 1))  # noqa: DTZ001 - the point


def test_a_window_that_lets_nothing_in_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        verifier(window=0)


def test_a_secret_is_not_shown() -> None:
    assert "hush" not in repr(WebhookSecret(value="hush"))
