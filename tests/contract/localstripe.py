"""`localstripe`, an imitation of Stripe that others wrote: a witness that is not ours.

It runs in a process of its own, on a free port of 127.0.0.1, and keeps nothing: left alone it
writes its state to one file for the whole machine. It lacks one field that every version of
Stripe's interface has (`amount_received`), which is put in.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LAUNCH = """
import os, socket, sys, threading
from aiohttp import web
from localstripe import resources, server

resources.Store.dump_to_disk = lambda self: None
resources.PaymentIntent.amount_received = property(
    lambda self: self.amount if self.status == "succeeded" else 0
)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
web.run_app(server.app, sock=listener, print=None)
"""


@contextmanager
def localstripe() -> Iterator[str]:
    """Its base URL while it runs; it ends with this block, or with this process."""
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


class NobodyJudges:
    """In place of a judge: localstripe has no ledger to read and no faults to script."""

    def __getattr__(self, name: str) -> object:
        raise NotImplementedError(f"localstripe cannot {name}")


_NO_SEARCH = "it has no search"
_NO_KEYS = "it ignores idempotency keys"
_NO_FAULTS = "it has no faults"
_NO_LEDGER = "it has no ledger to look into"
_NO_LIMIT = "it refunds without limit, and what was never captured"
_NO_CODE = "it says 404 without a code, which may as well be a wrong address"
_NO_CHECKS = "it tells nothing of what the issuer checked"
_NO_CHALLENGE = "it sends a payer to no page, and knows none of the cards that are challenged"

CANNOT_HOLD = {
    "test_a_void_leaves_nothing_held": _NO_LEDGER,
    "test_an_uncaptured_payment_cannot_be_refunded": _NO_LIMIT,
    "test_a_voided_authorization_cannot_be_captured": "it captures what was cancelled",
    "test_a_part_can_be_captured_once": "it gives the rest back as a refund of no payment",
    "test_refunds_never_exceed_the_capture": _NO_LIMIT,
    "test_nothing_and_less_cannot_be_authorized": _NO_SEARCH,
    "test_an_unknown_payment_is_a_typed_answer": _NO_CODE,
    "test_a_decline_is_final_and_decisive_however_often_it_is_asked"
    "[localstripe-insufficient_funds-InsufficientFundsError]": "it has no such card",
    "test_a_declined_payment_holds_nothing": _NO_LEDGER,
    "test_an_unknown_token_is_an_invalid_request": _NO_CODE,
    "test_a_key_replays_its_first_answer": _NO_KEYS,
    "test_a_key_with_other_parameters_is_a_conflict_and_unknown": _NO_KEYS,
    "test_a_key_belongs_to_one_operation": _NO_KEYS,
    "test_a_key_in_flight_is_unknown": _NO_FAULTS,
    "test_an_unusable_key_is_refused_before_anything_is_sent": _NO_SEARCH,
    "test_a_second_full_refund_is_the_first_one": _NO_LIMIT,
    "test_one_more_refund_after_two_halves_is_not_success": _NO_LIMIT,
    "test_an_answer_lost_after_the_effect_is_unknown_and_the_key_settles_it": _NO_FAULTS,
    "test_a_failure_that_may_have_had_an_effect_is_unknown": _NO_FAULTS,
    "test_a_stored_500_is_replayed_and_only_a_lookup_settles_it": _NO_FAULTS,
    "test_a_slow_answer_is_unknown_at_the_deadline": _NO_FAULTS,
    "test_a_rate_limit_is_retriable_and_says_when": _NO_FAULTS,
    "test_a_call_without_time_left_is_not_sent": _NO_SEARCH,
    "test_a_challenge_is_a_wait_that_ends_in_an_authorization": _NO_CHALLENGE,
    "test_a_failed_challenge_is_a_decline": _NO_CHALLENGE,
    "test_a_challenge_that_the_payer_let_lapse_is_a_decline": _NO_CHALLENGE,
    "test_an_open_challenge_can_be_called_off": _NO_CHALLENGE,
    "test_calling_off_what_was_never_held_moves_no_money": _NO_CHALLENGE,
    "test_a_payer_can_be_asked_to_authenticate": _NO_CHALLENGE,
    "test_a_card_that_cannot_be_challenged_is_charged_and_says_so": _NO_CHECKS,
    "test_an_authorization_tells_what_the_issuer_checked": _NO_CHECKS,
    "test_checks_are_told_once_the_challenge_is_passed": _NO_CHALLENGE,
    "test_a_pending_refund_ends_later": _NO_FAULTS,
    "test_a_failed_refund_can_be_tried_again": _NO_FAULTS,
    "test_a_payment_is_found_by_each_of_its_names": _NO_SEARCH,
    "test_what_is_not_there_is_not_found": _NO_CODE,
    "test_a_lagging_lookup_does_not_see_it_yet": _NO_FAULTS,
    "test_a_failed_question_is_retriable": _NO_FAULTS,
    "test_the_report_of_a_day_lists_what_moved": "it lists no events by several types",
}
"""The tests that localstripe cannot hold, each with its reason; each must fail there."""
