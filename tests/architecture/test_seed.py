"""Every name of the seed can be imported from the place that docs/from-the-seed.md tells."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/from-the-seed.md").read_text()

MODULES = {
    "errors": """
        PaymentError NetworkError GatewayTimeoutError RateLimitedError CardDeclinedError
        InsufficientFundsError FraudBlockedError AuthenticationRequiredError
        IdempotencyConflictError InvalidRequestError SagaCompensationError
        IdempotencyInFlightError WebhookSignatureError WebhookReplayError
    """,
    "idempotency": """
        idempotent IdempotencyStore InMemoryIdempotencyStore IdempotencyRecord IdempotencyState
        InvalidIdempotencyUsage hash_payload
    """,
    "saga": "Saga Saga.add_step SagaState SagaExecution assert_saga_succeeded",
    "webhooks": "WebhookVerifier is_first_delivery",
    "redaction": """
        redact redact_dict PCIRedactionFilter install_root_redaction_filter Tokenizer
    """,
    "fraud": """
        FraudEngine FraudContext Decision blocklist_rule avs_cvv_rule velocity_rule
        country_mismatch_rule high_amount_rule VelocityTracker
    """,
    "reconciliation": """
        Reconciler Reconciler.on Reconciler.reconcile ReconciliationReport.summary
        TransactionRecord Discrepancy DiscrepancyType
    """,
    "gateway": "PaymentGateway ChargeRequest ChargeResult ChargeStatus RefundRequest",
    "decorators": "retry circuit_breaker rate_limit timer log_execution",
}
NAMES = [name for names in MODULES.values() for name in names.split()]
MEMBERS = {
    "Decision": {"approve", "review", "challenge", "block"},
    "SagaState": {"running", "completed", "compensating", "compensated", "failed_compensation"},
    "DiscrepancyType": {
        *("missing_internal", "missing_gateway", "amount_mismatch", "status_mismatch"),
    },
}


def homes(name: str) -> list[str]:
    return re.findall(rf"`([\w/]+\.py)::{re.escape(name)}`", PAGE)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_seed_is_imported_from_where_the_page_says(name: str) -> None:
    first, _, member = name.partition(".")
    for path in homes(name):
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        found = getattr(module, first)

        assert not member or callable(getattr(found, member))

    assert homes(name)


@pytest.mark.parametrize(("name", "members"), MEMBERS.items())
def test_what_a_name_of_the_seed_stands_for_has_its_members(name: str, members: set[str]) -> None:
    (path,) = set(homes(name))
    found = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)

    assert members <= {each.value for each in found}
