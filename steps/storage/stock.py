"""Stock: units are reserved under a key, then released or shipped, each once.

Every verb writes the reservation first and the article's row last, in that order everywhere: the
row that all orders of an article share is locked for one statement and the commit after it, and no
two verbs can wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from orchestrator.errors import Terminal
from orchestrator.seam import durable
from steps.storage.tables import reservation, stock


class ReservationState(StrEnum):
    """Where reserved units are: put aside, back on the shelf, or gone."""

    RESERVED = "reserved"
    RELEASED = "released"
    SHIPPED = "shipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class StockLevel:
    """What there is of one article: `on_hand` in the house, `reserved` of it promised."""

    sku: str
    on_hand: int
    reserved: int

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Units put aside under a key, and where they are now."""

    key: str
    sku: str
    units: int
    state: ReservationState


class OutOfStockError(Terminal):
    """Fewer units are available than asked for, or the article is not known at all."""


class ReservationConflictError(Terminal):
    """The key holds a reservation that has ended, or one of something else."""


def reserve(connection: sqlalchemy.Connection, *, key: str, sku: str, units: int) -> None:
    """Put units aside under `key`, in the caller's transaction; a repetition changes nothing.

    Raises:
        OutOfStockError: roll back; the reservation's row was written before the stock was asked.
        ReservationConflictError: the key is used up; nothing was written.
    """
    written = connection.execute(
        insert(reservation)
        .values(key=key, sku=sku, units=units)
        .on_conflict_do_nothing()
        .returning(reservation.c.key)
    ).first()
    if written is None:
        _check_same(connection, key, sku, units)
        return
    taken = connection.execute(
        update(stock)
        .where(stock.c.sku == sku, stock.c.on_hand - stock.c.reserved >= units)
        .values(reserved=stock.c.reserved + units)
    )
    if taken.rowcount == 0:
        raise OutOfStockError(f"not {units} of {sku} in stock", code="out_of_stock")


def release(connection: sqlalchemy.Connection, key: str) -> ReservationState | None:
    """Put reserved units back, in the caller's transaction; return the state found before.

    Only *reserved* units move: released ones are back already and shipped ones are gone. None: the
    key never reserved anything.
    """
    return _end(connection, key, ReservationState.RELEASED)


def ship(connection: sqlalchemy.Connection, key: str) -> ReservationState | None:
    """Take reserved units out of the house, in the caller's transaction; as `release` otherwise."""
    return _end(connection, key, ReservationState.SHIPPED)


def restock(engine: sqlalchemy.Engine, sku: str, units: int) -> StockLevel:
    """Add units of an article, known or new, and return its level. Every call adds.

    Raises:
        ValueError: `units` is negative.
    """
    if units < 0:
        raise ValueError(f"restock adds units; {units} would take some away")
    fresh = insert(stock).values(sku=sku, on_hand=units)
    statement = fresh.on_conflict_do_update(
        index_elements=[stock.c.sku], set_={"on_hand": stock.c.on_hand + fresh.excluded.on_hand}
    ).returning(stock.c.sku, stock.c.on_hand, stock.c.reserved)

    def write() -> StockLevel:
        with engine.begin() as connection:
            return StockLevel(**connection.execute(statement).mappings().one())

    return durable("shop.restock", write)


def levels(connection: sqlalchemy.Connection) -> list[StockLevel]:
    """Return every article's level, by name."""
    rows = connection.execute(select(stock).order_by(stock.c.sku)).mappings()
    return [StockLevel(**row) for row in rows]


def reservations(connection: sqlalchemy.Connection) -> list[Reservation]:
    """Return every reservation there ever was, by key."""
    columns = (reservation.c.key, reservation.c.sku, reservation.c.units, reservation.c.state)
    rows = connection.execute(select(*columns).order_by(reservation.c.key)).mappings()
    return [Reservation(**{**row, "state": ReservationState(row["state"])}) for row in rows]


def _check_same(connection: sqlalchemy.Connection, key: str, sku: str, units: int) -> None:
    known = connection.execute(
        select(reservation.c.sku, reservation.c.units, reservation.c.state).where(
            reservation.c.key == key
        )
    ).one()
    if tuple(known) != (sku, units, ReservationState.RESERVED):
        raise ReservationConflictError(
            f"the key holds {known.units} of {known.sku}, {known.state}",
            code="reservation_conflict",
        )


def _end(
    connection: sqlalchemy.Connection, key: str, state: ReservationState
) -> ReservationState | None:
    ended = connection.execute(
        update(reservation)
        .where(reservation.c.key == key, reservation.c.state == ReservationState.RESERVED)
        .values(state=state, ended_at=func.clock_timestamp())
        .returning(reservation.c.sku, reservation.c.units)
    ).first()
    if ended is None:
        found = connection.scalar(select(reservation.c.state).where(reservation.c.key == key))
        return None if found is None else ReservationState(found)
    leaving = ended.units if state is ReservationState.SHIPPED else 0
    connection.execute(
        update(stock)
        .where(stock.c.sku == ended.sku)
        .values(reserved=stock.c.reserved - ended.units, on_hand=stock.c.on_hand - leaving)
    )
    return ReservationState.RESERVED
