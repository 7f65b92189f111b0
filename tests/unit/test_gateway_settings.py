"""Which payment gateway a deployment gets, and what is refused before a worker starts."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from steps.gateways.sandbox.client import SandboxGateway
from steps.gateways.stripe.client import StripeGateway
from workers import bootstrap
from workers.settings import Settings, SettingsError

FAKE_KEY = "sk_test_not_a_real_key"
FAKE_LIVE_KEY = "sk_live_not_a_real_key"
HERE = "http://127.0.0.1:8799"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GATEWAY", "GATEWAY_URL", "STRIPE_KEY", "STRIPE_KEY_FILE", "STRIPE_RETURN_URL"):
        monkeypatch.delenv(f"AMENDS_{name}", raising=False)


def test_the_sandbox_is_what_a_url_alone_means() -> None:
    gateway = bootstrap.payment_gateway(Settings.load(gateway_url=HERE))

    assert isinstance(gateway, SandboxGateway)
    gateway.close()


def test_stripe_needs_no_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{FAKE_LIVE_KEY}\n")
    monkeypatch.setenv("AMENDS_GATEWAY", "stripe")
    monkeypatch.setenv("AMENDS_STRIPE_KEY_FILE", str(tmp_path / "key"))
    settings = Settings.load()

    gateway = bootstrap.payment_gateway(settings)

    assert settings.has_gateway
    assert isinstance(gateway, StripeGateway)
    assert gateway.capabilities.lookup_lag == timedelta(minutes=1)
    gateway.close()


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({}, "AMENDS_GATEWAY_URL"),
        ({"gateway": "stripe"}, "AMENDS_STRIPE_KEY"),
        (
            {"gateway": "stripe", "stripe_key": FAKE_LIVE_KEY, "gateway_url": HERE},
            "https only",
        ),
    ],
)
def test_a_gateway_that_cannot_work_is_refused(chosen: dict[str, Any], names: str) -> None:
    with pytest.raises(SettingsError, match=names):
        bootstrap.payment_gateway(Settings.load(**chosen))


def test_a_worker_without_stripes_client_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stripe", None)
    settings = Settings.load(gateway="stripe", stripe_key=FAKE_KEY)
    unused: Any = None

    with pytest.raises(SettingsError, match=r"amends\[stripe\]"):
        bootstrap.build_coordinator(
            settings, database=unused, doorbell=unused, definitions=unused, owner=str
        )


def test_the_key_is_not_in_the_representation() -> None:
    assert FAKE_KEY not in repr(Settings.load(gateway="stripe", stripe_key=FAKE_KEY))


def test_an_unknown_gateway_is_refused() -> None:
    with pytest.raises(SettingsError, match="AMENDS_GATEWAY"):
        Settings.load(gateway="paypal")
