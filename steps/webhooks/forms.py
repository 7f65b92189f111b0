"""The gateways whose webhooks we read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from steps.webhooks.event import WebhookForm
from steps.webhooks.sandbox_form import SANDBOX
from steps.webhooks.stripe_form import STRIPE

FORMS: Final[Mapping[str, WebhookForm]] = MappingProxyType({"sandbox": SANDBOX, "stripe": STRIPE})
"""By the name that a gateway has in settings and URLs."""
