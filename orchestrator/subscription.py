"""How another service hears what becomes of sagas: in order, at least once, at its own pace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.errors import AmendsError
from orchestrator.storage.database import Database
from orchestrator.storage.events import (
    EventLag,
    Events,
    Position,
    SagaEvent,
    TransactionNumbersBeganAnewError,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

BATCH = 500
MAX_NAME_LENGTH = 100


class SubscriptionError(AmendsError):
    """A subscription has no usable name, or cannot be read in this database."""


class Subscription:
    """The life-cycle events of all sagas, from the oldest still there, for one reader.

    A reader handles an event, then acknowledges it. One that dies between the two reads it again,
    so handling must tell a repetition by the event's id. Readers of the same name share a position:
    at the same time they may handle an event twice, but skip none.

    From its first acknowledgement on, no saga is pruned whose events a subscription has not
    acknowledged. One that nobody reads any more must be forgotten.

    Args:
        engine: a SQLAlchemy engine on the database that holds the saga log.
        name: of the reader, for example the service's; up to 100 printable characters.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        if not name.strip() or len(name) > MAX_NAME_LENGTH or not name.isprintable():
            raise SubscriptionError(
                f"a subscription's name has 1 to {MAX_NAME_LENGTH} printable characters"
            )
        self.name = name
        self._events = Events(Database(engine))

    def read(self, limit: int = BATCH, after: Position | None = None) -> list[SagaEvent]:
        """Return the next events that are not acknowledged; empty when there are none now.

        Changes nothing, so it may be repeated. `limit` is not exact: an event that has to come
        before another one of its saga comes on top. `after` reads on from there instead.

        Raises:
            SubscriptionError: the database was restored from a dump, see docs/operating.md.
            LogUnavailableError: Postgres did not answer.
        """
        try:
            return self._events.read(after or self._events.position(self.name), limit)
        except TransactionNumbersBeganAnewError as error:
            raise SubscriptionError(
                "the log's transaction numbers are ahead of this database's, so new events cannot "
                "be told from old ones: docs/operating.md, Events, says how to mend that"
            ) from error

    def acknowledge(self, last: SagaEvent | Position) -> bool:
        """Never deliver again what was read up to and including `last`; committed on return.

        Idempotent. False when nothing changed: another reader of this name has acknowledged more.
        """
        position = last.position if isinstance(last, SagaEvent) else last
        return self._events.acknowledge(self.name, position)

    def events(self, batch: int = BATCH) -> Iterator[SagaEvent]:
        """Yield events until there are none now.

        A batch is acknowledged when the event after it is asked for: whoever stops in the middle of
        one, by an exception too, gets the whole batch again.
        """
        while read := self.read(batch):
            yield from read
            self.acknowledge(read[-1])

    def lag(self) -> EventLag:
        """Return how far this reader is behind."""
        return self._events.lag(self.name)

    def forget(self) -> bool:
        """Forget the position, for a reader that is no more; False when there was none."""
        return self._events.forget(self.name)
