"""What every idempotency store must do, held against each."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.idempotency_record import (
    Claim,
    Claimed,
    Conflict,
    Ending,
    Failed,
    IdempotencyState,
    IdempotencyStore,
    InProgress,
    Released,
    Succeeded,
    Unknown,
)
from tests.idempotency_stores import SHORT, again, answer, claim_of, record, taken
from tests.worker_processes import until

ERROR = {"class": "somewhere.Declined", "message": "no"}
ENDINGS: list[Ending] = [Succeeded(result={"id": 7}), Failed(error=ERROR), Unknown(error=ERROR)]


def lapsed(store: IdempotencyStore, claim: Claim) -> Claim:
    """Take a key and let its lease end."""
    taken(store, claim)
    until(lambda: record(store, claim).state is IdempotencyState.UNKNOWN)
    return claim


# -- claiming --------------------------------------------------------------------------------------


def test_a_free_key_is_claimed_once(store: IdempotencyStore) -> None:
    first = claim_of()
    assert isinstance(answer(store, first), Claimed)
    assert answer(store, again(first)) == InProgress()
    assert record(store, first).token == first.token


def test_many_claims_at_once_give_the_key_to_one(store: IdempotencyStore) -> None:
    barrier = threading.Barrier(16)
    answers: list[Any] = []

    def run() -> None:
        barrier.wait()
        answers.append(answer(store, claim_of()))

    threads = [threading.Thread(target=run) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(type(each).__name__ for each in answers) == ["Claimed"] + ["InProgress"] * 15


def test_a_claim_whose_answer_was_lost_finds_itself(store: IdempotencyStore) -> None:
    claim = taken(store, claim_of())
    assert isinstance(answer(store, claim), Claimed)


def test_the_same_key_of_another_scope_is_another_call(store: IdempotencyStore) -> None:
    claim = taken(store, claim_of())
    refund = replace(claim_of(), call=replace(claim.call, scope="shop.refund"))
    assert isinstance(answer(store, refund), Claimed)


@pytest.mark.parametrize("ending", [None, *ENDINGS], ids=str)
def test_another_payload_is_a_conflict_however_the_key_stands(
    store: IdempotencyStore, ending: Ending | None
) -> None:
    claim = taken(store, claim_of())
    if ending is not None:
        store.finish(claim, ending)
    assert answer(store, claim_of(payload={"amount": 2})) == Conflict()
    assert record(store, claim).call == claim.call


# -- finishing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS, ids=str)
def test_an_end_is_the_answer_to_every_later_claim(store: IdempotencyStore, ending: Ending) -> None:
    claim = taken(store, claim_of())
    store.finish(claim, ending)
    for _ in range(2):
        assert answer(store, again(claim)) == ending
    assert answer(store, claim) == ending


@pytest.mark.parametrize("ending", ENDINGS, ids=str)
def test_an_end_whose_answer_was_lost_finds_itself(store: IdempotencyStore, ending: Ending) -> None:
    claim = taken(store, claim_of())
    first = store.finish(claim, ending)
    assert store.finish(claim, ending) == first
    assert first is not None
    assert first.token == claim.token


def test_a_stranger_cannot_say_how_a_call_ended(store: IdempotencyStore) -> None:
    claim = taken(store, claim_of())
    found = store.finish(again(claim), Succeeded(result="forged"))
    assert found is not None
    assert found.token == claim.token
    assert record(store, claim).state is IdempotencyState.IN_PROGRESS


def test_the_end_of_a_key_that_is_not_there_is_nothing(store: IdempotencyStore) -> None:
    assert store.finish(claim_of(), Succeeded(result=1)) is None
    assert store.read("shop.charge", "order-1") is None


def test_a_released_key_is_free_also_for_another_payload(store: IdempotencyStore) -> None:
    claim = taken(store, claim_of())
    store.finish(claim, Released())
    assert store.read(claim.call.scope, claim.call.key) is None
    other = taken(store, claim_of(payload={"amount": 2}))
    assert record(store, other).call == other.call


def test_an_end_is_forgotten_after_its_time(store: IdempotencyStore) -> None:
    claim = taken(store, claim_of(keep_seconds=SHORT))
    kept = taken(store, claim_of("kept"))
    for each in (claim, kept):
        store.finish(each, Succeeded(result=1))
    until(lambda: store.read(claim.call.scope, claim.call.key) is None)
    assert isinstance(answer(store, again(claim)), Claimed)
    assert answer(store, again(kept)) == Succeeded(result=1)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abcé{}"), inner),
    max_leaves=10,
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(result=JSON)
def test_a_result_comes_back_as_it_was(store: IdempotencyStore, result: Any) -> None:
    claim = taken(store, claim_of(key=str(uuid4())))
    store.finish(claim, Succeeded(result=result))
    found = answer(store, again(claim))
    assert repr(found) == repr(Succeeded(result=result))  # 1 and 1.0 differ, -0.0 and 0.0 too


def test_a_result_of_a_megabyte_comes_back(store: IdempotencyStore) -> None:
    claim = taken(store, claim_of())
    result = {"lines": ["ü" * 100] * 5_000}
    store.finish(claim, Succeeded(result=result))
    assert answer(store, again(claim)) == Succeeded(result=result)


def test_what_a_caller_does_with_a_result_changes_no_record(store: IdempotencyStore) -> None:
    claim = taken(store, claim_of())
    store.finish(claim, Succeeded(result=[1]))
    answer(store, claim).result.append(2)
    assert answer(store, claim) == Succeeded(result=[1])


# -- leases ----------------------------------------------------------------------------------------


def test_a_call_that_never_answered_is_unknown(store: IdempotencyStore) -> None:
    claim = lapsed(store, claim_of(lease_seconds=SHORT))
    assert answer(store, again(claim)) == Unknown()
    assert answer(store, again(claim, repeatable=True)) == Unknown()
    assert record(store, claim).token == claim.token


def test_a_repeatable_call_that_never_answered_is_claimed_anew(store: IdempotencyStore) -> None:
    claim = lapsed(store, claim_of(lease_seconds=SHORT, repeatable=True))
    assert answer(store, again(claim, repeatable=False)) == Unknown()
    conflicting = claim_of(payload={"amount": 2}, repeatable=True)
    assert answer(store, conflicting) == Conflict()
    assert isinstance(answer(store, again(claim)), Claimed)


def test_who_was_taken_over_can_no_longer_say_how_it_ended(store: IdempotencyStore) -> None:
    old = lapsed(store, claim_of(lease_seconds=SHORT, repeatable=True))
    new = taken(store, again(old, lease_seconds=15.0))
    found = store.finish(old, Succeeded(result="old"))
    assert found is not None
    assert found.token == new.token
    store.finish(new, Succeeded(result="new"))
    assert answer(store, again(old)) == Succeeded(result="new")


def test_a_late_answer_of_a_call_that_nobody_took_over_counts(store: IdempotencyStore) -> None:
    claim = lapsed(store, claim_of(lease_seconds=SHORT))
    store.finish(claim, Succeeded(result="late"))
    assert answer(store, again(claim)) == Succeeded(result="late")


def test_a_kept_claim_outlives_its_lease(store: IdempotencyStore) -> None:
    claim = taken(store, claim_of(lease_seconds=6.0, repeatable=True))
    with store.kept(claim):
        first = record(store, claim).lease_left_seconds
        assert first is not None
        lefts = [first]

        def is_extended() -> bool:
            lefts.append(record(store, claim).lease_left_seconds or 0.0)
            return lefts[-1] > lefts[-2]

        until(is_extended)
        assert answer(store, again(claim)) == InProgress()
    until(lambda: isinstance(answer(store, again(claim)), Claimed))


def test_no_claim_is_kept_beyond_its_timeout(store: IdempotencyStore) -> None:
    claim = taken(store, claim_of(lease_seconds=3 * SHORT, timeout_seconds=3.5 * SHORT))
    ends_at = record(store, claim).claimed_at + timedelta(seconds=3.5 * SHORT + 0.01)

    def is_over() -> bool:
        before = datetime.now(UTC)
        found = record(store, claim)
        assert before + timedelta(seconds=found.lease_left_seconds or 0.0) <= ends_at
        return found.state is IdempotencyState.UNKNOWN

    with store.kept(claim):
        until(is_over)


# -- settling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS[:2], ids=str)
def test_a_settled_unknown_is_known(store: IdempotencyStore, ending: Ending) -> None:
    claim = lapsed(store, claim_of(lease_seconds=SHORT))
    place = (claim.call.scope, claim.call.key)
    settled = store.settle(*place, ending, by="ann", because="asked the gateway")
    assert settled is not None
    assert (settled.settled_by, settled.settled_because) == ("ann", "asked the gateway")
    assert answer(store, again(claim)) == ending
    assert store.settle(*place, Released(), by="bob", because="no") is None


def test_a_denied_unknown_is_free(store: IdempotencyStore) -> None:
    claim = taken(store, claim_of())
    store.finish(claim, Unknown(error=ERROR))
    store.settle(claim.call.scope, claim.call.key, Released(), by="ann", because="not there")
    anew = taken(store, again(claim))
    assert record(store, anew).settled_by is None


@pytest.mark.parametrize("ending", [None, Succeeded(result=1), Failed(error=ERROR), Released()])
def test_only_an_unknown_is_settled(store: IdempotencyStore, ending: Ending | None) -> None:
    claim = taken(store, claim_of())
    if ending is not None:
        store.finish(claim, ending)
    place = (claim.call.scope, claim.call.key)
    assert store.settle(*place, Released(), by="ann", because="guess") is None
    assert store.settle("elsewhere", "x", Released(), by="ann", because="guess") is None


@pytest.mark.parametrize("denial", [Released(), Failed(error=ERROR)])
def test_a_success_overrules_a_settlement_that_denied_it(
    store: IdempotencyStore, denial: Ending
) -> None:
    claim = lapsed(store, claim_of(lease_seconds=SHORT))
    store.settle(claim.call.scope, claim.call.key, denial, by="ann", because="not there")
    store.finish(claim, Succeeded(result="it was"))
    assert answer(store, again(claim)) == Succeeded(result="it was")
    assert record(store, claim).settled_by == "ann"


def test_a_late_failure_overrules_no_settlement(store: IdempotencyStore) -> None:
    claim = lapsed(store, claim_of(lease_seconds=SHORT))
    landed = Succeeded(result=1)
    store.settle(claim.call.scope, claim.call.key, landed, by="ann", because="it is there")
    for late in (Failed(error=ERROR), Released(), Unknown(), Succeeded(result=2)):
        store.finish(claim, late)
        assert answer(store, again(claim)) == landed


# -- keeping ---------------------------------------------------------------------------------------


def test_what_is_unknown_is_listed_the_oldest_first(store: IdempotencyStore) -> None:
    lost = taken(store, claim_of("lost", lease_seconds=SHORT))
    store.finish(taken(store, claim_of("known")), Succeeded(result=1))
    store.finish(taken(store, claim_of("raised")), Unknown(error=ERROR))
    taken(store, claim_of("repeatable", lease_seconds=SHORT, repeatable=True))
    taken(store, claim_of("running"))
    until(lambda: len(store.unknown()) > 1)
    assert [each.call.key for each in store.unknown()] == ["lost", "raised"]
    assert [each.call for each in store.unknown(limit=1)] == [lost.call]


def test_only_what_has_expired_is_pruned_and_in_batches(store: IdempotencyStore) -> None:
    short: dict[str, Any] = {"keep_seconds": 0.001, "lease_seconds": SHORT}
    for number in range(3):
        store.finish(taken(store, claim_of(f"old-{number}", **short)), Succeeded(result=1))
    store.finish(taken(store, claim_of("released")), Released())
    store.finish(taken(store, claim_of("kept")), Succeeded(result=1))
    store.finish(taken(store, claim_of("unknown", **short)), Unknown())
    lapsed(store, claim_of("lapsed", **short))
    taken(store, claim_of("running", keep_seconds=0.001))

    assert [store.prune(limit=3), store.prune(limit=3), store.prune(limit=3)] == [3, 1, 0]
    assert {each.call.key for each in store.unknown()} == {"unknown", "lapsed"}
    assert store.read("shop.charge", "kept") is not None
    assert store.read("shop.charge", "running") is not None


def test_a_repeatable_call_that_never_answered_is_forgotten_in_the_end(
    store: IdempotencyStore,
) -> None:
    taken(store, claim_of(repeatable=True, timeout_seconds=SHORT, keep_seconds=SHORT))
    until(lambda: store.prune() == 1)
