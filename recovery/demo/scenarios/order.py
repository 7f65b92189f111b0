"""The order of a scenario: one CD of an article that nobody else orders."""

from __future__ import annotations

from typing import Any, Final

from recovery.demo.orders import single
from recovery.demo.stage import Stage
from steps.storage import stock
from steps.storage.stock import StockLevel

PRICE_MINOR: Final = 1_990
UNITS: Final = 10
"""Of the article, when the scenario begins."""


def article_of(key: str) -> str:
    """The article that only the order of this key is for."""
    return f"cd-{key}"


def stocked(stage: Stage, key: str, **changes: Any) -> dict[str, Any]:
    """Put the article on the shelf, and return the payload of an order of one of it."""
    stock.restock(stage.engine, article_of(key), UNITS)
    return single(key, amount_minor=PRICE_MINOR) | {"sku": article_of(key)} | changes


def level_of(stage: Stage, key: str) -> StockLevel:
    """Return how many of the article there are now."""
    with stage.engine.connect() as connection:
        return next(each for each in stock.levels(connection) if each.sku == article_of(key))
