"""The one place that builds things: engines, doorbells, definitions, coordinators, clients.

Nothing is opened here: connections are made by whoever uses them first, in the process that uses
them, and a fork starts with none.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from celery import Celery

from orchestrator.client import SagaClient
from orchestrator.context import Resources
from orchestrator.coordinator import Coordinator
from orchestrator.definition import SagaDefinition
from orchestrator.definitions import Definitions
from orchestrator.doorbell import Doorbell, SilentDoorbell
from orchestrator.guarding import Guards
from orchestrator.storage.database import Database, create_engine
from orchestrator.storage.process_session import ProcessSession
from steps.checkout import CARRIER, GATEWAY
from steps.fraud import checkout_engine
from steps.fraud_engine import FraudEngine
from steps.gateways.carrier import Carrier
from steps.gateways.payment import PaymentGateway
from steps.gateways.webhooks import WebhookVerifier
from steps.storage.shop_database import ShopDatabase
from steps.storage.velocity import PostgresVelocityTracker
from steps.storage.webhook_inbox import WebhookRows
from steps.velocity import VelocityTracker
from steps.webhooks.inbox import WebhookInbox
from steps.webhooks.looking import Looking
from workers.broker import client_configuration
from workers.hand_off import CeleryDoorbell
from workers.resilience.guards import Numbers, SharedGuards
from workers.resilience.shared_server import SharedServer
from workers.settings import Settings, SettingsError, rate_of

OURS = ("steps.checkout",)
"""Always registered: the project's own saga."""

SPARE_CONNECTIONS = 4
"""Beside one per thread: heartbeat, sweeper, alerts and starts."""

CLIENT_CONNECTIONS = 5


def connect(settings: Settings | None = None) -> SagaClient:
    """Return a client for the service that starts sagas.

    Opens nothing before its first call. Without a broker the sweep begins what it starts.

    Raises:
        SettingsError: no database is set, or AMENDS_SAGAS names a module that is not there.
    """
    settings = settings or Settings.load()
    engine = build_engine(settings, pool_size=CLIENT_CONNECTIONS, name="amends client")
    return SagaClient(
        engine,
        build_doorbell(settings),
        definitions=definitions(settings),
        on_close=engine.dispose,
    )


def definitions(settings: Settings) -> Definitions:
    """Return every saga definition that the modules of AMENDS_SAGAS hold, and our own.

    Raises:
        SettingsError: a module cannot be found or holds no definition.
        DefinitionError: a definition is wrong, or two of them claim the same name and version.
    """
    found: dict[int, SagaDefinition[Any]] = {}
    with _cwd_on_path():
        for name in (*OURS, *settings.sagas):
            for each in _definitions_in(name):
                found[id(each)] = each
    return Definitions(found.values())


def _definitions_in(name: str) -> list[SagaDefinition[Any]]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise SettingsError(
            f"AMENDS_SAGAS names {name!r}, but there is no such module on the path"
        ) from error
    found = [each for each in vars(module).values() if isinstance(each, SagaDefinition)]
    if not found:
        raise SettingsError(f"AMENDS_SAGAS names {name!r}, but that holds no SagaDefinition")
    return found


@contextmanager
def _cwd_on_path() -> Iterator[None]:
    """As Celery's own command line does: modules beside the caller can be named."""
    here = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def build_engine(
    settings: Settings,
    *,
    pool_size: int,
    name: str = "amends worker",
    session: Mapping[str, str] | None = None,
) -> Any:
    """Return an engine on the saga log that survives a fork: the child starts with no connection.

    Args:
        session: settings of its sessions beside the usual ones.

    Raises:
        SettingsError: no database is set.
    """
    engine = create_engine(
        settings.require_database_url(),
        pool_size=pool_size,
        application_name=name,
        session=session,
    )
    # The parent's sockets stay the parent's: `close=False` forgets them without a word on the wire.
    _after_fork(engine, lambda forgotten: forgotten.dispose(close=False))
    return engine


def build_process_session(settings: Settings) -> ProcessSession:
    """Return the session by which others see that this process lives; opens nothing yet."""
    never_idle_out = {"idle_session_timeout": "0"}
    return ProcessSession(
        build_engine(settings, pool_size=1, name="amends process", session=never_idle_out)
    )


def pool_size_of(settings: Settings) -> int:
    """Return how many connections one worker process needs."""
    return settings.concurrency + SPARE_CONNECTIONS if settings.pool == "threads" else 2


def build_doorbell(settings: Settings) -> Doorbell:
    """Return a doorbell for a process that is no worker, or a silent one without a broker."""
    if settings.broker_url is None:
        return SilentDoorbell()
    app = Celery("amends-client", set_as_current=False)
    app.conf.update(client_configuration(settings))
    _after_fork(app, lambda forgotten: forgotten._after_fork())  # noqa: SLF001 - no public name
    return CeleryDoorbell(app)


def build_coordinator(
    settings: Settings,
    *,
    database: Database,
    doorbell: Doorbell,
    definitions: Definitions,
    owner: Callable[[], str],
    drains: Callable[[], bool] = lambda: False,
) -> Coordinator:
    """Return a coordinator with everything a step may ask for."""
    return Coordinator(
        database=database,
        definitions=definitions,
        doorbell=doorbell,
        owner=owner,
        resources=Resources(factories=_outside_parts(settings, database)),
        lease=settings.lease,
        drains=drains,
        installation=settings.installation,
    )


def webhook_inbox(settings: Settings, *, database: Database, client: SagaClient) -> WebhookInbox:
    """Return the inbox of the gateways' webhooks; opens nothing before its first call.

    Raises:
        SettingsError: the gateway lacks its key or its client.
    """
    gateways: dict[str, Callable[[], PaymentGateway]] = {}
    if settings.has_gateway:
        _check_gateway(settings)
        gateways[settings.gateway] = functools.cache(lambda: payment_gateway(settings))
    verifiers = {name: WebhookVerifier(known) for name, known in settings.webhook_secrets.items()}
    return WebhookInbox(WebhookRows(database), verifiers, Looking(database, client, gateways))


def _outside_parts(settings: Settings, database: Database) -> Mapping[type, Callable[[], Any]]:
    """How to build what steps ask for; each at its first use in a process."""
    factories: dict[type, Callable[[], Any]] = {
        ShopDatabase: lambda: ShopDatabase(database.engine),
        VelocityTracker: lambda: PostgresVelocityTracker(database.engine),
        FraudEngine: lambda: checkout_engine(
            PostgresVelocityTracker(database.engine),
            blocklist=settings.fraud_blocklist,
            attempts_per_hour=settings.fraud_attempts_per_hour,
        ),
    }
    guard_url = settings.shared_guard_url
    if guard_url is not None:
        factories[Guards] = lambda: shared_guards(settings, guard_url)
    if settings.has_gateway:
        _check_gateway(settings)
        factories[PaymentGateway] = lambda: payment_gateway(settings)
    if settings.carrier_url is not None or settings.gateway_url is not None:
        factories[Carrier] = lambda: carrier(settings)
    return factories


def shared_guards(settings: Settings, url: str) -> SharedGuards:
    """Return the rates and circuits of this deployment; opens nothing before the first call."""
    rates = {GATEWAY.name: settings.gateway_rate, CARRIER.name: settings.carrier_rate}
    open_seconds = settings.breaker_open_seconds
    numbers = Numbers(
        rates={name: rate_of(rate) for name, rate in rates.items() if rate is not None},
        failures=settings.breaker_failures,
        open_for=None if open_seconds is None else timedelta(seconds=open_seconds),
    )
    return SharedGuards(SharedServer(url, prefix=settings.key_prefix), numbers)


def payment_gateway(settings: Settings) -> PaymentGateway:
    """Return the payment gateway.

    Raises:
        SettingsError: no gateway is set, or Stripe without its key or its client.
    """
    _check_gateway(settings)
    if settings.gateway == "stripe":
        return _stripe(settings)
    from steps.gateways.sandbox.client import SandboxGateway  # noqa: PLC0415 - an HTTP library

    if settings.gateway_url is None:
        raise SettingsError("no payment gateway: set AMENDS_GATEWAY_URL")
    return SandboxGateway(settings.gateway_url, timeout=settings.gateway_timeout)


@contextmanager
def lent_gateway(settings: Settings) -> Iterator[PaymentGateway]:
    """Lend the payment gateway to a command or a task; its connections end with the block.

    Raises:
        SettingsError: see `payment_gateway`.
    """
    gateway: Any = payment_gateway(settings)
    try:
        yield gateway
    finally:
        gateway.close()


def _check_gateway(settings: Settings) -> None:
    """Refuse at the start of a worker what would otherwise fail in the middle of an order."""
    if settings.gateway != "stripe":
        return
    key = settings.require_stripe_key()
    if importlib.util.find_spec("stripe") is None:
        raise SettingsError('AMENDS_GATEWAY=stripe needs its client: pip install "amends[stripe]"')
    url = settings.gateway_url or ""
    if "_live_" in key and url and not url.startswith("https://"):
        raise SettingsError("a live key of Stripe goes over https only: unset AMENDS_GATEWAY_URL")


def _stripe(settings: Settings) -> PaymentGateway:
    from steps.gateways.stripe.client import STRIPE_URL, StripeGateway  # noqa: PLC0415 - an extra

    return StripeGateway(
        settings.require_stripe_key(),
        timeout=settings.gateway_timeout,
        base_url=settings.gateway_url or STRIPE_URL,
        return_url=settings.stripe_return_url,
    )


def carrier(settings: Settings) -> Carrier:
    """Return the carrier: at its own URL, or where the gateway is.

    Raises:
        SettingsError: neither is set.
    """
    from steps.gateways.sandbox.client import SandboxCarrier  # noqa: PLC0415 - an HTTP library

    url = settings.carrier_url or settings.gateway_url
    if url is None:
        raise SettingsError("no carrier: set AMENDS_CARRIER_URL or AMENDS_GATEWAY_URL")
    return SandboxCarrier(url, timeout=settings.gateway_timeout)


_forked: list[tuple[weakref.ref[Any], Callable[[Any], None]]] = []


def _after_fork(thing: Any, forget: Callable[[Any], None]) -> None:
    """Have `forget(thing)` called in every forked child for as long as `thing` lives."""
    if not _forked:
        os.register_at_fork(after_in_child=_forget_all)
    _forked.append((weakref.ref(thing), forget))


def _forget_all() -> None:
    for reference, forget in list(_forked):
        thing = reference()
        if thing is None:
            _forked.remove((reference, forget))
        else:
            forget(thing)
