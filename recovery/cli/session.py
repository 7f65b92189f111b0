"""What one run of the command line works with, built when a command first asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import click

from orchestrator.client import SagaClient
from orchestrator.coordinator import Coordinator
from orchestrator.definitions import Definitions
from orchestrator.storage.database import Database
from orchestrator.storage.reads import Reads
from recovery.cli.output import Output
from recovery.operator.operator import Operator
from workers import bootstrap
from workers.owner import owner
from workers.settings import Settings


@dataclass
class Session:
    """The options given before or after the command, and the objects that follow from them."""

    options: dict[str, Any] = field(default_factory=dict)

    @property
    def debug(self) -> bool:
        return bool(self.options.get("debug"))

    @cached_property
    def output(self) -> Output:
        return Output(as_json=bool(self.options.get("as_json")))

    @cached_property
    def settings(self) -> Settings:
        """The environment's settings; the options come first."""
        names = ("database_url", "broker_url")
        given = {name: self.options[name] for name in names if self.options.get(name)}
        return Settings.load(**given)

    @cached_property
    def definitions(self) -> Definitions:
        return bootstrap.definitions(self.settings)

    @cached_property
    def engine(self) -> Any:
        return bootstrap.build_engine(self.settings, pool_size=2, name="amends cli")

    @cached_property
    def database(self) -> Database:
        return Database(self.engine)

    @cached_property
    def reads(self) -> Reads:
        return Reads(self.database)

    @cached_property
    def client(self) -> SagaClient:
        return SagaClient(
            self.engine, bootstrap.build_doorbell(self.settings), definitions=self.definitions
        )

    @cached_property
    def operator(self) -> Operator:
        return Operator(self.coordinator, self.client)

    @cached_property
    def coordinator(self) -> Coordinator:
        """For sweeping and for operators: it decides, rings and asks, and runs no attempt."""
        return bootstrap.build_coordinator(
            self.settings,
            database=self.database,
            doorbell=bootstrap.build_doorbell(self.settings),
            definitions=self.definitions,
            owner=owner,
        )

    def close(self) -> None:
        """Close the connections that were opened."""
        if "engine" in self.__dict__:
            self.engine.dispose()


pass_session = click.make_pass_decorator(Session, ensure=True)
