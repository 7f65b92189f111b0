"""Keys are derived, never minted, and never from the attempt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.entries import Recorded, SagaMigrated
from orchestrator.folding import apply
from orchestrator.keys import (
    INSTALLATION,
    forward_key,
    installation_of,
    key_of,
    step_keys,
    undo_key,
)
from tests.histories import COMPENSATE, FORWARD, History, doing, saga

SHOP = saga(doing("pay"), doing("ship"))
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,59}", fullmatch=True)
KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200)


def test_every_attempt_of_a_step_has_the_same_key() -> None:
    history = History(SHOP)
    first = key_of(history.state, "shop", "order-1", "pay", FORWARD)
    history.fails("pay").crashes("pay").released("pay").claims("pay")
    assert key_of(history.state, "shop", "order-1", "pay", FORWARD) == first


def test_a_start_repeated_after_a_lossy_fail_over_derives_the_same_keys() -> None:
    one, other = History(SHOP), History(SHOP)
    assert key_of(one.state, "shop", "order-1", "pay", FORWARD) == key_of(
        other.state, "shop", "order-1", "pay", FORWARD
    )


def test_the_undo_of_another_effect_has_another_key() -> None:
    forward = forward_key("shop", "order-1", "pay")
    assert len({undo_key(forward, "pay-1"), undo_key(forward, "pay-2"), forward}) == 3


def test_an_undo_without_a_known_effect_has_a_key_too() -> None:
    history = History(SHOP).declined("pay")
    assert key_of(history.state, "shop", "order-1", "pay", COMPENSATE).startswith("undo-")


def test_only_a_settled_unknown_gives_a_new_generation() -> None:
    history = History(SHOP).unknown("pay")
    assert history.state.step("pay").generation == 1
    assert history.settles("pay", landed=False).state.step("pay").generation == 2


def test_what_a_step_may_have_done_is_under_one_key_for_each_generation() -> None:
    history = History(SHOP).unknown("pay")
    first = step_keys(history.state, "shop", "order-1", "pay")
    settled = history.settles("pay", landed=False).state
    both = step_keys(settled, "shop", "order-1", "pay")

    assert first == {forward_key("shop", "order-1", "pay")}
    assert both == first | {key_of(settled, "shop", "order-1", "pay", FORWARD)}
    assert len(both) == 2


def test_a_step_that_a_migration_renamed_keeps_its_keys() -> None:
    """Else what it did, or may have done, would be done again under the new name's key."""
    history = History(SHOP).unknown("pay")
    before = key_of(history.state, "shop", "order-1", "pay", FORWARD)
    undo = key_of(history.state, "shop", "order-1", "pay", COMPENSATE)
    migrated = apply(
        history.state,
        Recorded(
            seq=history.state.seq + 1,
            at=history.now,
            entry=SagaMigrated(
                version=2, definition_hash="h", payload={}, renamed={"pay": "charge"}
            ),
        ),
    )
    assert key_of(migrated, "shop", "order-1", "charge", FORWARD) == before
    assert key_of(migrated, "shop", "order-1", "charge", COMPENSATE) == undo


def test_the_key_is_the_one_that_was_promised() -> None:
    """Changing the derivation would charge every saga in flight a second time."""
    assert forward_key("shop", "order-1", "pay") == "shop-pay-77e9c38b54ec8e474128ca134fea192d"


def test_two_installations_have_no_key_in_common() -> None:
    here, there = (
        forward_key("shop", "1001", "pay", installation=each) for each in ("eu-shop", "us-shop")
    )
    assert here.rpartition("-")[2] != there.rpartition("-")[2]
    assert [installation_of(each) for each in (here, there)] == ["eu-shop", "us-shop"]
    undone = undo_key(here, "p-1")
    assert installation_of(undone) == "eu-shop"
    assert undone != undo_key(there, "p-1")


@pytest.mark.parametrize(
    "key", ["shop-pay-77e9c38b", "1001.a", "Eu.shop-pay-1", "a.b.shop-pay-1", ""]
)
def test_a_key_that_names_no_installation_is_nobodys(key: str) -> None:
    assert installation_of(key) is None


def test_a_sagas_keys_name_the_installation_that_it_was_started_in() -> None:
    history = History(SHOP)
    state = replace(history.state, installation="eu-shop")
    key = key_of(state, "shop", "1001", "pay", FORWARD)
    assert key == forward_key("shop", "1001", "pay", installation="eu-shop")
    assert step_keys(state, "shop", "1001", "pay") == {key}
    assert installation_of(key_of(state, "shop", "1001", "pay", COMPENSATE)) == "eu-shop"


@given(NAMES, KEYS, NAMES, st.from_regex(INSTALLATION, fullmatch=True))
def test_whose_a_key_is_can_be_read_from_it(
    definition: str, key: str, step: str, installation: str
) -> None:
    derived = forward_key(definition, key, step, installation=installation)
    assert installation_of(derived) == installation
    assert len(derived) <= 255


@given(NAMES, KEYS, NAMES, st.integers(1, 5))
def test_keys_fit_the_strictest_gateway_and_show_nothing_a_customer_typed(
    definition: str, key: str, step: str, generation: int
) -> None:
    derived = forward_key(definition, key, step, generation)
    assert len(derived) <= 255
    assert derived.isascii()
    assert derived.removeprefix(f"{definition}-{step}-").isalnum()


@given(st.tuples(NAMES, KEYS, NAMES), st.tuples(NAMES, KEYS, NAMES))
def test_different_steps_never_share_a_key(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert (forward_key(*one) == forward_key(*other)) == (one == other)
