"""Money is exact, never mixes currencies and never was a float."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from steps.money import (
    EXPONENTS,
    LARGEST_MINOR,
    CurrencyMismatchError,
    Money,
    MoneyError,
    exponent_of,
)

currencies = st.sampled_from(sorted(EXPONENTS))
small_minors = st.integers(min_value=-(10**15), max_value=10**15)
amounts = st.builds(Money, minor=small_minors, currency=currencies)


@st.composite
def amounts_of_one_currency(draw: st.DrawFn, count: int) -> list[Money]:
    currency = draw(currencies)
    return [Money(minor=draw(small_minors), currency=currency) for _ in range(count)]


@given(st.integers(min_value=-LARGEST_MINOR, max_value=LARGEST_MINOR), currencies)
def test_text_and_back_is_the_same_money(minor: int, currency: str) -> None:
    money = Money(minor=minor, currency=currency)

    amount, printed_currency = str(money).split()

    assert Money.of(amount, printed_currency) == money


@given(amounts_of_one_currency(3))
def test_addition_is_exact_and_in_any_order(three: list[Money]) -> None:
    a, b, c = three

    assert (a + b) + c == a + (b + c) == c + b + a
    assert a + b - b == a
    assert a + -a == Money.zero(a.currency)
    assert Money.total(three, a.currency).minor == a.minor + b.minor + c.minor


@given(amounts_of_one_currency(2))
def test_order_is_the_order_of_minor_units(two: list[Money]) -> None:
    a, b = two

    assert (a < b) == (a.minor < b.minor)
    assert (a <= b) == (a.minor <= b.minor)
    assert (a > b) == (b < a)
    assert (a >= b) == (b <= a)


@given(amounts, amounts)
def test_two_currencies_never_mix(a: Money, b: Money) -> None:
    if a.currency == b.currency:
        b = Money(minor=b.minor, currency="EUR" if a.currency != "EUR" else "USD")

    for operation in (
        lambda: a + b,
        lambda: a - b,
        lambda: a < b,
        lambda: a <= b,
        lambda: a > b,
        lambda: a >= b,
    ):
        with pytest.raises(CurrencyMismatchError):
            operation()
    assert a != b


@given(amounts.filter(lambda money: abs(money.minor) < 10**12), st.integers(0, 6))
def test_another_exponent_is_exact_or_refused(money: Money, exponent: int) -> None:
    own = EXPONENTS[money.currency]
    is_whole = exponent >= own or money.minor % 10 ** (own - exponent) == 0

    if is_whole:
        assert Decimal(money.in_units_of(exponent)).scaleb(-exponent) == money.major
    else:
        with pytest.raises(MoneyError):
            money.in_units_of(exponent)


@given(st.floats(allow_nan=True, allow_infinity=True), currencies)
def test_a_float_is_refused_everywhere(amount: float, currency: str) -> None:
    with pytest.raises(MoneyError):
        Money.of(amount, currency)  # type: ignore[arg-type]
    with pytest.raises(MoneyError):
        Money(minor=amount, currency=currency)  # type: ignore[arg-type]


@given(st.text(max_size=12))
def test_any_text_is_money_or_a_money_error(text: str) -> None:
    try:
        money = Money.of(text, "EUR")
    except MoneyError:
        return
    assert money.major == Decimal(text)


@pytest.mark.parametrize(
    ("currency", "exponent"),
    [("JPY", 0), ("KRW", 0), ("USD", 2), ("EUR", 2), ("KWD", 3), ("BHD", 3), ("CLF", 4)],
)
def test_minor_units_follow_iso_4217(currency: str, exponent: int) -> None:
    assert exponent_of(currency) == exponent
    assert Money.of("7", currency).minor == 7 * 10**exponent


@pytest.mark.parametrize("currency", ["", "eur", "EURO", "XXX", "XAU", "€", None, ["EUR"]])
def test_an_unknown_currency_is_refused(currency: object) -> None:
    with pytest.raises(MoneyError, match="unknown currency"):
        Money(minor=1, currency=currency)  # type: ignore[arg-type]


@pytest.mark.parametrize("amount", [True, "1", 1.0, None, LARGEST_MINOR + 1, -LARGEST_MINOR - 1])
def test_minor_units_are_plain_integers_that_postgres_can_hold(amount: object) -> None:
    with pytest.raises(MoneyError):
        Money(minor=amount, currency="EUR")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", " 1", "1e3", "1,00", "1_000", "٣", "NaN", "Infinity", "0x10", "12.345", "1" * 25]
)
def test_an_amount_that_is_not_plain_or_too_fine_is_refused(text: str) -> None:
    with pytest.raises(MoneyError):
        Money.of(text, "EUR")


@pytest.mark.parametrize(("text", "minor"), [("12.34", 1234), ("-0.05", -5), ("12.3400", 1234)])
def test_plain_decimal_text_is_read(text: str, minor: int) -> None:
    assert Money.of(text, "EUR") == Money(minor=minor, currency="EUR")


def test_stripes_two_decimals_for_iceland_are_whole_krona() -> None:
    assert Money(minor=500, currency="ISK").in_units_of(2) == 50_000


def test_a_count_of_money_is_money() -> None:
    assert Money.of("1.25", "EUR") * 3 == Money.of("3.75", "EUR")
    with pytest.raises(MoneyError):
        Money.of("1.25", "EUR") * 1.5  # type: ignore[operator]


def test_a_sum_that_leaves_the_range_is_refused() -> None:
    with pytest.raises(MoneyError):
        Money(minor=LARGEST_MINOR, currency="EUR") + Money(minor=1, currency="EUR")


class Order(BaseModel):
    total: Money


def test_money_is_a_field_of_a_payload() -> None:
    order = Order(total=Money.of("12.34", "EUR"))

    assert order.model_dump_json() == '{"total":{"minor":1234,"currency":"EUR"}}'
    assert Order.model_validate_json(order.model_dump_json()) == order


@pytest.mark.parametrize("total", ['{"minor":12.5,"currency":"EUR"}', '{"minor":1,"currency":"?"}'])
def test_a_payload_with_wrong_money_is_refused(total: str) -> None:
    with pytest.raises(ValidationError):
        Order.model_validate_json(f'{{"total":{total}}}')
