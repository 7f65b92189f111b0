"""What is hidden in text and in values, and what is left alone."""

import json
from collections import UserDict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pytest

from orchestrator.redaction import redact, redact_dict, without_card_data

VISA = "4242424242424242"
HIDDEN = "************4242"


# Card numbers: seen.


@pytest.mark.parametrize(
    "number",
    [
        "4111111111111111",
        "4000056655665556",
        "4222222222222",
        "5555555555554444",
        "5200828282828210",
        "2223003122003222",
        "378282246310005",
        "371449635398431",
        "30569309025904",
        "36227206271667",
        "3056930009020004",
        "3566002020360505",
        "6011111111111117",
        "6555900000604105",
        "6200000000000005",
        "6205500000000000004",
        "6771798021000008",
        "6304000000000000",
        "2200000000000004",
        "6062826786276634",
        "9792030000000000",
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", "paid with {}!", "card{}", "card{}x", '{{"number":"{}"}}', "{}\n"]
)
def test_a_card_number_keeps_its_last_four_digits(number: str, around: str) -> None:
    expected = "*" * (len(number) - 4) + number[-4:]

    assert redact(around.format(number)) == around.format(expected)


@pytest.mark.parametrize(
    "written",
    [
        "4242 4242 4242 4242",
        "4242-4242-4242-4242",
        "4242.4242.4242.4242",
        "4242_4242_4242_4242",
        "4242 - 4242 - 4242 - 4242",
        "4242\xa04242\xa04242\xa04242",
        "4242\u20094242\u202f4242\u20074242",
        "4242\u20134242\u20144242\u22124242",
        "\uff14\uff12" * 8,
        "\u0664\u0662" * 8,
        "4242\u200b4242\u200d4242\ufeff4242",
        "4\xad2\xad4\xad2 4242 4242 4242",
        "4242%204242%204242%204242",
        "4242+4242+4242+4242",
        "4242%2D4242%2D4242%2D4242",
        "%34242424242424242",
        r"4242\u00a04242\u00a04242\u00a04242",
        r"\uff14\uff1242424242424242",
        r"4242\xa04242\xa04242\xa04242",  # as `repr` writes it, of text
        r"4242\xc2\xa04242\xc2\xa04242\xc2\xa04242",  # and of bytes
        r"4\xad2\xad4\xad2 4242 4242 4242",
        r"4242\t4242\t4242\t4242",
        "4242\u20664242\u20694242\u202a4242",  # directions of writing
        "4242\u034f4242\ufe0f4242\u061c4242",
        "42424242 42424242",
    ],
)
def test_a_card_number_is_seen_however_it_is_written(written: str) -> None:
    assert redact(f"<{written}>") == f"<{HIDDEN}>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3782 822463 10005", "***********0005"),
        ("3056 930902 5904", "**********5904"),
        ("4917 6100 0000 0000 003", "***************0003"),
        ("621094 0000000000009", None),
        ("4222 222 222 222", None),
        (f"{VISA} 12/27", f"{HIDDEN} 12/27"),
        ("4242 4242 4242 4242 12/27", f"{HIDDEN} 12/27"),
        ("4242 4242 4242 4242 100 EUR", f"{HIDDEN} 100 EUR"),
        ("order 4111 4242 4242 4242 4242", f"order 4111 {HIDDEN}"),
        (f"1 {VISA} 2", f"1 {HIDDEN} 2"),
        (f"{VISA}.0", f"{HIDDEN}.0"),
        (f"{VISA},5555555555554444", f"{HIDDEN},************4444"),
        (f"card%20{VISA}&x=1", f"card%20{HIDDEN}&x=1"),
        (f"100%{VISA}", f"100%{HIDDEN}"),  # no escape
        (f"password={VISA}abc", f"password={HIDDEN}"),
        ("cvv 123 456", "cvv [REDACTED_CVV] 456"),
        ("cvv [REDACTED_CVV] 456", None),
    ],
)
def test_what_stands_beside_a_card_number_stays(text: str, expected: str | None) -> None:
    assert redact(text) == (text if expected is None else expected)


@pytest.mark.parametrize(
    "track",
    [
        f"%B{VISA}^DOE/JOHN^27121010000000000000?",
        f"B{VISA}^DOE/JOHN              ^2712101",
        f";{VISA}=27121010000012345678?",
        f"{VISA}=2712101",
        f"{VISA}D27121011000012345678",
    ],
)
def test_a_magnetic_track_is_hidden_whole(track: str) -> None:
    assert redact(f"<{track}>") == "<[REDACTED_TRACK]>"


# Card numbers: left alone.


@pytest.mark.parametrize(
    "text",
    [
        "4242424242424241",  # the check digit is wrong
        "9999999999999995",  # no issuer
        "424242424242424242424242",  # too long
        "424242424242",  # too short
        "019ab0c1-4242-7242-8242-424242424242",
        "abcd4242-4242-4242-4242-4242abcdef01",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca4242424242424242",
        "00-fb76690bbb7979310ebdeebd463f095f-4242424242424242-01",
        "0x4242424242424242",
        "0.4242424242424242",
        "5.234567890123456",
        "1764000000000",  # milliseconds since the epoch
        "1764000000000000000",  # nanoseconds
        "2026-11-24T08:12:33.123456Z",
        "20261124081233",
        "2026-11-24 4242 4242",
        "event_id=6205500000000000004",
        '"id": 4917610000000000003',
        "orderId: 6205500000000000004",
        "offset 4917610000000000003",  # 19 digits of a brand that issues 16
        "DE89370400440532013000",
        "FI6797893777708332",
        "DE69 3832 8972 6072 3520 82",
        "to DE69 3832 8972 6072 3520 82 EUR 12",
        "4006380480841",  # an EAN
        "+4420623685183",
        "4915108795134",
        "+44 20 7946 0958",
        "490154203237518",  # an IMEI
        "9400111899223456789012",  # tracking numbers
        "1Z4242424242424242",
        "00340434161094015902",
        "408-1234567-1234567",
        "4,242,424.24 EUR",
        "42424242 42 4242",
        "4242\n4242\n4242\n4242",
        "really %s … retry? 100%",
        "cvv_result: M, cvc_check: pass",
        "success: 200",
        "acid: 1234",
        "spin=1234",
        "card 12 of 345",
        "cvc: 12345",
        "cvv on 2026-11-24",
        "Bearer authentication failed",
        "password=None",
        "http://host:8080/a@b",
        "",
    ],
)
def test_other_long_numbers_and_words_are_left_alone(text: str) -> None:
    assert redact(text) is text


# By name, and by shape.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("card 4111111111111111 cvv: 123", "card ************1111 cvv: [REDACTED_CVV]"),
        ("cvc=1234", "cvc=[REDACTED_CVV]"),
        ("CVV2 is 123.", "CVV2 is [REDACTED_CVV]."),
        ('{"cvv":"123"}', '{"cvv":"[REDACTED_CVV]"}'),
        (r"{\"cvc\": \"123\"}", r"{\"cvc\": \"[REDACTED_CVV]\"}"),
        ("cvv%3D123&x", "cvv%3D[REDACTED_CVV]&x"),
        ("Card(cvv='123', n=1)", "Card(cvv='[REDACTED_CVV]', n=1)"),
        ("<cvc>123</cvc>", "<cvc>[REDACTED_CVV]</cvc>"),
        ("cardCvc: 123", "cardCvc: [REDACTED_CVV]"),
        ("card security code 123", "card security code [REDACTED_CVV]"),
        ("security_code: 123", "security_code: [REDACTED_CVV]"),
        ("security code: 123", "security code: [REDACTED_CVV]"),
        ("cid: 1234", "cid: [REDACTED_CVV]"),
        ("cvv \uff11\uff12\uff13", "cvv [REDACTED_CVV]"),
        ("card number: 4242424242424241", f"card number: {'*' * 12}4241"),
        ("card_no=4242 4242 4242 4242 12/27", f"card_no={HIDDEN} 12/27"),
        ('"pan": 4917610000000000003', f'"pan": {"*" * 15}0003'),
        ("pin=1234", "pin=[REDACTED_PIN]"),
        ("sk_live_51Habcdefgh", "sk_live_[REDACTED_SECRET]"),
        ("rk_test_51Habcdefgh", "rk_test_[REDACTED_SECRET]"),
        ("whsec_MfKQ9r8GKYqrTwjU", "whsec_[REDACTED_SECRET]"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer [REDACTED_SECRET]"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [REDACTED_SECRET]"),
        ("t eyJhbGciOiJI.eyJzdWIiOiIx.sig", "t [REDACTED_SECRET]"),
        ("postgresql://u:hunter2@host/db", "postgresql://u:[REDACTED_SECRET]@host/db"),
        ('{"password": "hunter2"}', '{"password": "[REDACTED_SECRET]"}'),
        ("password%3Dhunter2", "password%3D[REDACTED_SECRET]"),
        ("api_key=hunter2&x=1", "api_key=[REDACTED_SECRET]&x=1"),
    ],
)
def test_what_its_name_or_its_shape_makes_sensitive(text: str, expected: str) -> None:
    assert redact(text) == expected


class Vault:
    def tokenize(self, pan: str) -> str:
        if pan != VISA:
            raise ConnectionError("the vault is down")
        return "tok_1"

    def detokenize(self, token: str) -> str:
        raise KeyError(token)

    def delete(self, token: str) -> None:
        raise KeyError(token)


def test_nothing_stays_nothing() -> None:
    missing: Any = None

    assert redact(missing) is None


def test_a_vaults_token_stands_in_place_of_a_card_number() -> None:
    text = f"{VISA}, 5555555555554444, cvv 123"

    assert redact(text, Vault()) == "tok_1, ************4444, cvv [REDACTED_CVV]"


# Values.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"card_number": VISA, "cvv": "123"}, {"card_number": HIDDEN, "cvv": "[REDACTED_CVV]"}),
        ({"n": int(VISA)}, {"n": HIDDEN}),
        ({"n": float(VISA)}, {"n": HIDDEN}),
        ({"n": Decimal(VISA)}, {"n": HIDDEN}),
        ({"n": VISA.encode()}, {"n": HIDDEN.encode()}),
        ({"cvv": 123}, {"cvv": "[REDACTED_CVV]"}),
        ({"cvv": [123, 1]}, {"cvv": ["[REDACTED_CVV]", 1]}),
        ({"cardNumber": 4242424242424241}, {"cardNumber": f"{'*' * 12}4241"}),
        ({"a": [{"b": (VISA, 1)}]}, {"a": [{"b": (HIDDEN, 1)}]}),
        ({VISA: 1, int(VISA) - 1: 2}, {HIDDEN: 1, int(VISA) - 1: 2}),
        ({"s": frozenset({VISA})}, {"s": frozenset({HIDDEN})}),
        ({"password": "two words"}, {"password": "[REDACTED_SECRET]"}),
        (UserDict({"a": VISA}), {"a": HIDDEN}),
        ({"password=4242": VISA}, {"password=[REDACTED_SECRET]": "[REDACTED_SECRET]"}),
        (VISA, HIDDEN),
    ],
)
def test_values_are_hidden_wherever_they_are(value: Any, expected: Any) -> None:
    assert redact_dict(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        {"id": 6205500000000000004, "amount_minor": int(VISA), "ok": True, "none": None},
        {"at": 1764000000.123456, "ratio": 0.4242424242424242, "nan": float("nan")},
        {"exc_info": (ValueError, ValueError(VISA), None)},  # becomes text later, and is seen then
        {"big": 10**5000},
        [1, "a", b"\xff", (2,), {3}],
    ],
    ids=["numbers", "floats", "exception", "huge", "mixed"],
)
def test_a_value_without_any_is_the_same_object(value: Any) -> None:
    assert redact_dict(value) is value


def test_nothing_is_changed_in_place() -> None:
    given = {"a": [VISA]}

    redact_dict(given)

    assert given == {"a": [VISA]}


def test_depth_and_number_of_values_are_bounded() -> None:
    deep: Any = VISA
    for _ in range(60):
        deep = [deep]
    endless: list[Any] = []
    endless += [endless, endless]

    assert VISA not in str(redact_dict(deep))
    assert "[REDACTED_DEPTH_LIMIT]" in str(redact_dict(deep))
    assert redact_dict(endless)
    assert redact_dict([VISA] * 100_001)[-1] == "[REDACTED_SIZE_LIMIT]"


def test_what_was_not_looked_at_counts_as_hidden() -> None:
    deep: Any = VISA
    for _ in range(60):
        deep = [deep]

    for value in (deep, [1] * 100_001):
        assert without_card_data(value)[1]


class Broken(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise OSError

    def __iter__(self) -> Iterator[str]:
        raise OSError

    def __len__(self) -> int:
        raise OSError


def test_a_mapping_that_cannot_be_read_raises_nothing() -> None:
    assert redact_dict({"a": Broken()}) == {"a": "[REDACTED_UNREADABLE]"}


def test_what_is_stored_loses_card_data_and_keeps_the_secrets_that_a_step_needs() -> None:
    value = {"card": {"number": VISA, "last4": "4242"}, "list": ["a", VISA], "cid": 123}
    needed = {"access_token": "abc123def", "webhook": "whsec_MfKQ9r8GKYqrTwjU", "door": "pin=1234"}

    stored, places = without_card_data({**value, **needed, VISA: 1, "x y": VISA})

    assert stored == {
        "card": {"number": HIDDEN, "last4": "4242"},
        "list": ["a", HIDDEN],
        "cid": 123,
        **needed,
        HIDDEN: 1,
        "x y": HIDDEN,
    }
    assert places == ["card.number", "list.1", "(name)", "?"]


def test_a_masked_value_is_still_json() -> None:
    value = {"n": int(VISA), "cvv": 123, "text": '"' + VISA + '"'}

    assert json.loads(json.dumps(redact_dict(value)))
