"""Settings: where values come from, and what is said when they are wrong."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from workers.settings import Settings, SettingsError

VARIABLES = ("AMENDS_DATABASE_URL", "DATABASE_URL", "AMENDS_BROKER_URL", "CELERY_BROKER_URL")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # a developer's own .env is not ours to read
    for name in (*VARIABLES, "REDIS_URL", "AMENDS_SAGAS", "AMENDS_QUEUES", "AMENDS_ALERT_COMMAND"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


def test_defaults_are_those_the_documentation_promises() -> None:
    settings = Settings.load()

    assert (settings.lease_seconds, settings.sweep_seconds, settings.grace_seconds) == (15, 5, 25)
    assert (settings.pool, settings.hand_off, settings.remote_control) == (
        "threads",
        "inline",
        False,
    )
    assert settings.key_prefix == "amends:"


@pytest.mark.parametrize("variable", ["AMENDS_DATABASE_URL", "DATABASE_URL"])
def test_the_database_s_url_may_come_from_either_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "postgresql://here/shop")

    assert Settings.load().require_database_url() == "postgresql://here/shop"


def test_our_own_variable_comes_before_those_we_fall_back_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://third")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://second")
    assert Settings.load().broker_url == "redis://second"

    monkeypatch.setenv("AMENDS_BROKER_URL", "redis://first")
    assert Settings.load().broker_url == "redis://first"


@pytest.mark.parametrize(
    ("given", "known_to_kombu"),
    [("valkey://host/1", "redis://host/1"), ("valkeys://host", "rediss://host")],
)
def test_valkey_is_redis_to_kombu(given: str, known_to_kombu: str) -> None:
    settings = Settings.load(broker_url=given)

    assert settings.broker_url == known_to_kombu
    assert settings.is_redis


def test_a_secret_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://user:secret@host/shop\n")
    monkeypatch.setenv("AMENDS_DATABASE_URL_FILE", str(secret))

    assert Settings.load().database_url == "postgresql://user:secret@host/shop"

    monkeypatch.setenv("AMENDS_DATABASE_URL", "postgresql://explicit/shop")
    assert Settings.load().database_url == "postgresql://explicit/shop"


def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENDS_BROKER_URL_FILE", "/nowhere/url")

    with pytest.raises(SettingsError, match="AMENDS_BROKER_URL_FILE"):
        Settings.load()


def test_a_dotenv_file_is_read_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AMENDS_POOL=prefork\nAMENDS_CONCURRENCY=3\n")
    monkeypatch.setenv("AMENDS_CONCURRENCY", "5")

    settings = Settings.load()

    assert (settings.pool, settings.concurrency) == ("prefork", 5)


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENDS_SAGAS", "shop.sagas, shop.refunds,")
    monkeypatch.setenv("AMENDS_QUEUES", "amends,slow")

    settings = Settings.load()

    assert settings.sagas == ("shop.sagas", "shop.refunds")
    assert settings.queues == ("amends", "slow")


def test_a_rate_at_which_no_undo_could_ever_ask_and_act_is_refused() -> None:
    with pytest.raises(SettingsError, match="2 requests"):
        Settings.load(gateway_rate="1/minute")

    Settings.load(gateway_rate="2/2 minutes", carrier_rate="1/minute")


@pytest.mark.parametrize("separator", [",", ", ", " ", "\n", "\r\n\r\n"])
def test_a_blocklist_may_be_a_file_of_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, separator: str
) -> None:
    entries = ("mallory@example.org", "@bad.example", "203.0.113.0/24", "2001:db8::1")
    (tmp_path / "blocklist").write_text(separator.join(entries) + "\n")
    monkeypatch.setenv("AMENDS_FRAUD_BLOCKLIST_FILE", str(tmp_path / "blocklist"))

    settings = Settings.load()

    assert settings.fraud_blocklist == entries
    assert "mallory" not in repr(settings)


@pytest.mark.parametrize("limit", [0, 10**20])
def test_a_limit_of_attempts_that_cannot_be_counted_to_is_refused(limit: int) -> None:
    """Postgres counts no further than 64 bits: every order would go to review instead."""
    with pytest.raises(SettingsError, match="AMENDS_FRAUD_ATTEMPTS_PER_HOUR"):
        Settings.load(fraud_attempts_per_hour=limit)


def test_a_wrong_entry_of_the_blocklist_is_named_by_its_place_and_not_shown() -> None:
    with pytest.raises(SettingsError, match=r"AMENDS_FRAUD_BLOCKLIST: .*entry 2") as caught:
        Settings.load(fraud_blocklist="203.0.113.0/24 mallory@")

    assert "mallory" not in str(caught.value)


def test_what_is_missing_is_said_with_the_variable_to_set() -> None:
    settings = Settings.load()

    with pytest.raises(SettingsError, match=r"AMENDS_DATABASE_URL.*DATABASE_URL"):
        settings.require_database_url()
    with pytest.raises(SettingsError, match=r"AMENDS_BROKER_URL.*CELERY_BROKER_URL.*REDIS_URL"):
        settings.require_broker_url()


def test_a_wrong_value_is_named_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENDS_LEASE_SECONDS", "hunter2")

    with pytest.raises(SettingsError, match="AMENDS_LEASE_SECONDS") as refused:
        Settings.load()

    assert "hunter2" not in str(refused.value)


def test_passwords_are_not_in_the_representation() -> None:
    settings = Settings.load(
        database_url="postgresql://user:hunter2@host/x", broker_url="redis://:hunter2@host"
    )

    assert "hunter2" not in repr(settings)


# -- alerts ----------------------------------------------------------------------------------------

URL = "https://pager.example/x"


def secret_of(length: int) -> str:
    return "whsec_" + base64.b64encode(b"x" * length).decode()


def test_an_alert_url_needs_a_secret() -> None:
    with pytest.raises(SettingsError, match="AMENDS_ALERT_SECRET"):
        Settings.load(alert_url=URL)
    assert Settings.load(alert_url=URL, alert_secret=secret_of(24)).alert_url == URL


@pytest.mark.parametrize(
    "secret",
    ["hunter2", "whsec_hunter2!", secret_of(23), secret_of(65), f"{secret_of(24)} hunter2"],
)
def test_a_secret_that_nobody_could_verify_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(SettingsError, match="AMENDS_ALERT_SECRET") as refused:
        Settings.load(alert_url=URL, alert_secret=secret)
    assert secret not in str(refused.value)


def test_two_secrets_are_good_while_one_replaces_the_other() -> None:
    both = f"{secret_of(32)}\n{secret_of(64)}"
    assert Settings.load(alert_url=URL, alert_secret=both).alert_secret == both


@pytest.mark.parametrize("url", ["pager.example", "ftp://pager.example", "https://", "http:///x"])
def test_an_alert_url_is_of_the_web(url: str) -> None:
    with pytest.raises(SettingsError, match="AMENDS_ALERT_URL"):
        Settings.load(alert_url=url, alert_secret=secret_of(24))


def test_an_alert_command_is_split_as_a_shell_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENDS_ALERT_COMMAND", "/bin/page --team 'on call'")
    assert Settings.load().alert_command == ("/bin/page", "--team", "on call")


def test_an_alert_command_with_an_open_quote_is_refused() -> None:
    with pytest.raises(SettingsError, match="AMENDS_ALERT_COMMAND"):
        Settings.load(alert_command="/bin/page 'on call")


def test_where_alerts_go_is_not_in_the_representation() -> None:
    settings = Settings.load(
        alert_url=f"{URL}/hunter2", alert_secret=secret_of(24), alert_command="page hunter2"
    )
    assert "hunter2" not in repr(settings)
    assert secret_of(24) not in repr(settings)


def test_patience_is_some_sweeps_and_what_one_may_take() -> None:
    settings = Settings.load(sweep_seconds=60, alert_missed_sweeps=2)
    assert settings.sweep_patience_seconds == 130
