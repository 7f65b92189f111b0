"""docs/gateways.md tells every fault, capability, error and test card that the code has."""

from dataclasses import fields
from pathlib import Path

import pytest

from steps.gateways import errors
from steps.gateways.errors import PaymentError
from steps.gateways.payment import GatewayCapabilities
from steps.gateways.sandbox.announcements import OWN_TYPES
from steps.gateways.sandbox.faults import FaultKind
from steps.gateways.sandbox.rules import TOKENS

PAGE = (Path(__file__).parents[2] / "docs/gateways.md").read_text()

ERRORS = [
    name
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, PaymentError) and each is not PaymentError
]
FACTS = [each.name for each in fields(GatewayCapabilities) if each.name != "name"]


@pytest.mark.parametrize(
    "name", [*ERRORS, *FACTS, *FaultKind, *TOKENS, *sorted(set(OWN_TYPES.values()))]
)
def test_the_page_tells_it(name: str) -> None:
    assert f"`{name}`" in PAGE
