"""What a deployment can choose, from ``AMENDS_*`` variables, a ``.env`` file or secret files.

Every variable also has a ``..._FILE`` form that names a file with the value, as secret mounts want
it. Precedence: the variable, then the file it names, then ``.env``, then the default.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import limits
from pydantic import AliasChoices, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from orchestrator.errors import AmendsError
from orchestrator.guarding import Rate
from orchestrator.keys import INSTALLATION
from steps.fraud_rules import blocklist_rule
from steps.gateways.webhooks import WebhookSecret
from workers.http.tokens import known_tokens

PREFIX = "AMENDS_"
Pool = Literal["threads", "prefork", "solo"]
Names = Annotated[tuple[str, ...], NoDecode]

SECRET_PREFIX = "whsec_"  # noqa: S105 - how Standard Webhooks writes a secret, not one
SECRET_BYTES = range(24, 65)
UNDO_REQUESTS = 2
"""What one attempt of the checkout may send its gateway: a lookup, then an undo."""

SWEEP_SLACK_SECONDS = 10.0
"""What a sweep may take itself before it counts as missed."""


class SettingsError(AmendsError):
    """A setting is missing or wrong; the message names the variable to set."""


def _from(*variables: str) -> Any:
    return AliasChoices(*variables)


class Settings(BaseSettings):
    """One deployment's choices; frozen.

    Args:
        database_url: the Postgres that holds the saga log.
        installation: what the database's installation must be called; under another name nothing is
            claimed. None: whatever it is called.
        broker_url: Redis, Valkey or RabbitMQ; without one the sweep alone moves sagas.
        broker_profile: ``fast`` acknowledges at once and lets the sweep find what a killed worker
            had fetched; ``redeliver`` has the broker deliver that again (always so on RabbitMQ).
        sagas: modules whose saga definitions are registered beside ``steps.checkout``.
        gateway: whose form the payment gateway speaks: the sandbox's own, or Stripe's.
        gateway_url, carrier_url: the payment gateway and, if elsewhere, the carrier.
        stripe_key: a secret or restricted key of the Stripe account.
        stripe_return_url: where Stripe sends a payer after a challenge.
        gateway_timeout_seconds: the longest one call to them may take.
        gateway_rate, carrier_rate: requests that all workers together may send them, as
            ``100/second`` or ``1000/2 minutes``; None: no limit of ours.
        breaker_failures: calls that must meet an outage before a circuit opens; 0: none ever does.
        breaker_open_seconds: how long it stays open before one call tries again.
        guard_url: the Redis in which rates and circuits are shared; None: the broker, if it is one.
        fraud_blocklist: whose orders the checkout blocks: e-mail addresses, domains, IP ranges.
        fraud_attempts_per_hour: of one customer, mailbox or IP; more of them are reviewed.
        lease_seconds: how long a claimed attempt lives without a sign of its worker.
        sweep_seconds: how often a worker looks for what nobody is moving.
        queues: the queues a worker serves; empty means all that the definitions name.
        hand_off: ``inline`` runs the next step in the same worker where that serves its queue.
        remote_control: lets anyone on the broker inspect and stop workers; off by default.
        key_prefix: put before every Redis key, so that several applications can share a server.
        grace_seconds: what a stopping worker gives its running attempts; then it hands them on.
        stall_seconds: how long a worker may take nothing, with room for a step and messages
            waiting, before it connects anew; after as long again it ends with exit code 75.
        max_hung_threads: in how many threads of a worker a step may run past its timeout, each
            replaced by another; one more, and it ends itself with exit code 70.
        keep_days: how long ended sagas are kept at least: the longest life of a gateway's key and
            the time in which books are still reconciled.
        workers_sweep: whether workers sweep too; without, `amends sweep` must run somewhere.
        sandbox_webhook_secrets, stripe_webhook_secrets: what the gateway signs its webhooks with;
            several while one takes another's place, each as ``secret`` or ``secret@end``.
        http_tokens: who may use `amends serve`, as ``name=sha256`` of a token, with spaces between.
        alert_url: where alerts are posted; signed with each secret in `alert_secret`.
        alert_command: program and arguments that are given alerts, one at a time.
        alert_unknown_seconds: how long an outcome may be unknown before somebody is told.
        alert_unclaimed_seconds: how long a due attempt may wait for a worker before somebody is
            told that its queue is not served.
        alert_missed_sweeps: how many sweeps may be missed before somebody is told.
        reconcile_hour: from which hour of the gateway's day beat has yesterday reconciled; without
            one it does not.
        reconcile_sagas: definitions whose money the gateway moves; empty means all.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
        env_ignore_empty=True,
    )

    database_url: str | None = Field(
        None, repr=False, validation_alias=_from("AMENDS_DATABASE_URL", "DATABASE_URL")
    )
    broker_url: str | None = Field(
        None,
        repr=False,
        validation_alias=_from("AMENDS_BROKER_URL", "CELERY_BROKER_URL", "REDIS_URL"),
    )
    installation: str | None = Field(None, pattern=f"^{INSTALLATION.pattern}$")
    broker_profile: Literal["fast", "redeliver"] = "fast"
    sagas: Names = ()
    gateway: Literal["sandbox", "stripe"] = "sandbox"
    stripe_key: str | None = Field(None, repr=False)
    stripe_return_url: str | None = None
    gateway_url: str | None = None
    carrier_url: str | None = None
    gateway_timeout_seconds: float = Field(10.0, gt=0)
    gateway_rate: str | None = None
    carrier_rate: str | None = None
    breaker_failures: int | None = Field(None, ge=0)
    breaker_open_seconds: float | None = Field(None, gt=0)
    guard_url: str | None = Field(None, repr=False)
    fraud_blocklist: Names = Field((), repr=False)
    fraud_attempts_per_hour: int = Field(20, ge=1, le=1_000_000)
    lease_seconds: float = Field(15.0, ge=1)
    sweep_seconds: float = Field(5.0, gt=0)
    queues: Names = ()
    pool: Pool = "threads"
    concurrency: int = Field(8, ge=1)
    hand_off: Literal["inline", "broker"] = "inline"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    remote_control: bool = False
    key_prefix: str = "amends:"
    grace_seconds: float = Field(25.0, ge=0)
    stall_seconds: float = Field(60.0, gt=0)
    max_hung_threads: int = Field(8, ge=0)
    keep_days: int = Field(90, ge=1)
    workers_sweep: bool = True
    sandbox_webhook_secrets: str | None = Field(None, repr=False)
    stripe_webhook_secrets: str | None = Field(None, repr=False)
    http_tokens: str | None = Field(None, repr=False)
    alert_url: str | None = Field(None, repr=False)
    alert_secret: str | None = Field(None, repr=False, validate_default=True)
    alert_command: Names = Field((), repr=False)
    alert_unknown_seconds: float = Field(900.0, gt=0)
    alert_unclaimed_seconds: float = Field(60.0, gt=0)
    alert_missed_sweeps: int = Field(3, ge=1)
    reconcile_hour: int | None = Field(None, ge=0, le=23)
    reconcile_sagas: Names = ()

    @field_validator("sagas", "queues", "reconcile_sagas", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(each.strip() for each in value.split(",") if each.strip())
        return value

    @field_validator("fraud_blocklist", mode="before")
    @classmethod
    def _entries(cls, value: Any) -> Any:
        """Separated by commas, spaces or lines; a wrong one stops the worker and not an order."""
        if not isinstance(value, str):
            return value
        entries = tuple(filter(None, re.split(r"[,\s]+", value)))
        blocklist_rule(entries)
        return entries

    @field_validator("alert_command", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """As a shell would split it; no shell is ever asked."""
        return tuple(shlex.split(value)) if isinstance(value, str) else value

    @field_validator("alert_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/]+\S*", value):
            raise ValueError("must be http(s)://host[:port]/path")
        return value

    @field_validator("alert_secret")
    @classmethod
    def _webhook_secret(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("alert_url") is not None:
            raise ValueError("AMENDS_ALERT_URL needs one, for receivers to know who posts")
        for each in (value or "").split():
            if not _is_webhook_secret(each):
                raise ValueError("must be whsec_ and then 24 to 64 random bytes in base64")
        return value

    @field_validator("sandbox_webhook_secrets", "stripe_webhook_secrets")
    @classmethod
    def _readable_secrets(cls, value: str | None) -> str | None:
        if value is not None:
            webhook_secrets_of(value)
        return value

    @field_validator("http_tokens")
    @classmethod
    def _readable_tokens(cls, value: str | None) -> str | None:
        known_tokens(value)
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("gateway_rate", "carrier_rate")
    @classmethod
    def _readable_rate(cls, value: str | None) -> str | None:
        if value is not None:
            rate_of(value)
        return value

    @field_validator("gateway_rate")
    @classmethod
    def _has_room(cls, value: str | None) -> str | None:
        if value is not None and rate_of(value).limit < UNDO_REQUESTS:
            raise ValueError(
                f"an undo may send {UNDO_REQUESTS} requests at once: set a longer window, "
                "2/2 minutes for 1/minute"
            )
        return value

    @field_validator("broker_url", "guard_url")
    @classmethod
    def _kombu_scheme(cls, value: str | None) -> str | None:
        """Kombu knows Valkey by Redis' name only."""
        if value is None:
            return None
        for valkey, redis in (("valkey://", "redis://"), ("valkeys://", "rediss://")):
            if value.startswith(valkey):
                return redis + value.removeprefix(valkey)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - we read named files
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _NamedFiles(settings_cls), dotenv_settings

    @classmethod
    def load(cls, **values: Any) -> Settings:
        """Return the settings of this process; `values` come before its environment.

        Raises:
            SettingsError: a variable is wrong.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(_explained(error)) from None

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @property
    def gateway_timeout(self) -> timedelta:
        return timedelta(seconds=self.gateway_timeout_seconds)

    @property
    def sweep_patience_seconds(self) -> float:
        """How long nobody may have swept before that is worth telling."""
        return self.alert_missed_sweeps * self.sweep_seconds + SWEEP_SLACK_SECONDS

    @property
    def has_gateway(self) -> bool:
        """Whether a payment gateway is chosen; Stripe needs no URL."""
        return self.gateway == "stripe" or self.gateway_url is not None

    @property
    def webhook_secrets(self) -> Mapping[str, Sequence[WebhookSecret]]:
        """What each gateway signs its webhooks with; those without a secret deliver nothing."""
        given = {"sandbox": self.sandbox_webhook_secrets, "stripe": self.stripe_webhook_secrets}
        return {name: webhook_secrets_of(text) for name, text in given.items() if text is not None}

    @property
    def is_redis(self) -> bool:
        """Whether the broker speaks Redis' protocol."""
        return self.broker_url is not None and self.broker_url.startswith(
            ("redis://", "rediss://", "redis+socket://", "sentinel://")
        )

    @property
    def shared_guard_url(self) -> str | None:
        """Where rates and circuits are shared, in the words of the Redis client."""
        if self.guard_url is not None:
            return self.guard_url
        if self.broker_url is None or not self.is_redis or self.broker_url.startswith("sentinel"):
            return None
        return self.broker_url.replace("redis+socket://", "unix://", 1)

    def require_database_url(self) -> str:
        """Return the database's URL.

        Raises:
            SettingsError: none is set.
        """
        if self.database_url is None:
            raise SettingsError(
                "no database: set AMENDS_DATABASE_URL (or DATABASE_URL), "
                "for example postgresql://user:password@host/name"
            )
        return self.database_url

    def require_stripe_key(self) -> str:
        """Return the key of the Stripe account.

        Raises:
            SettingsError: none is set.
        """
        if self.stripe_key is None:
            raise SettingsError("no key for Stripe: set AMENDS_STRIPE_KEY")
        return self.stripe_key

    def require_broker_url(self) -> str:
        """Return the broker's URL.

        Raises:
            SettingsError: none is set.
        """
        if self.broker_url is None:
            raise SettingsError(
                "no broker: set AMENDS_BROKER_URL (or CELERY_BROKER_URL, or REDIS_URL), "
                "for example redis://host:6379/0"
            )
        return self.broker_url


def rate_of(text: str) -> Rate:
    """Return the rate that a text like ``100/second`` means.

    Raises:
        ValueError: it means none.
    """
    item = limits.parse(text)
    return Rate(item.amount, per=timedelta(seconds=item.get_expiry()))


def webhook_secrets_of(text: str) -> Sequence[WebhookSecret]:
    """Return the secrets that a text like ``new old@2027-01-31T00:00Z`` means.

    Raises:
        ValueError: it means none, or an end is no instant with a zone.
    """
    secrets = []
    for each in text.split():
        value, _, end = each.partition("@")
        try:
            valid_until = datetime.fromisoformat(end) if end else None
        except ValueError:
            raise ValueError(
                "the end of a secret, after its @, is like 2027-01-31T00:00Z"
            ) from None
        secrets.append(WebhookSecret(value=value, valid_until=valid_until))
    if not secrets:
        raise ValueError("there is no secret in it")
    return secrets


class _NamedFiles(PydanticBaseSettingsSource):
    """Reads the files named by ``<VARIABLE>_FILE``."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        aliases = field.validation_alias
        names = aliases.choices if isinstance(aliases, AliasChoices) else [PREFIX + field_name]
        for name in map(str, names):
            path = os.environ.get(f"{name.upper()}_FILE")
            if path:
                return _contents(name.upper(), Path(path)), field_name, False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in found.items() if value is not None}


def _is_webhook_secret(text: str) -> bool:
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        return False
    return text.startswith(SECRET_PREFIX) and len(key) in SECRET_BYTES


def _contents(variable: str, path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"{variable}_FILE names {path}, which cannot be read: {error.strerror}"
        ) from error


def _explained(error: ValidationError) -> str:
    problems = []
    for each in error.errors(include_input=False, include_url=False):
        name = str(each["loc"][0]) if each["loc"] else "settings"
        variable = name if name.isupper() else PREFIX + name.upper()
        problems.append(f"{variable}: {each['msg']}")
    return "wrong settings: " + "; ".join(problems)
