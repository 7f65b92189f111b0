"""A file of orders with the columns of a real one: some are free, and some customers come often."""

from __future__ import annotations

import csv
import gzip
import random
from pathlib import Path

COLUMNS = ("order_id", "customer_id", "ordered_on", "units", "amount_minor", "currency")


def write_orders(path: Path, count: int, *, seed: int = 1) -> Path:
    """Write a .csv.gz of `count` orders, the same ones for the same seed, and return its path."""
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    with gzip.open(path, "wt", newline="", encoding="utf-8") as text:
        rows = csv.writer(text)
        rows.writerow(COLUMNS)
        for number in range(1, count + 1):
            units = min(dice.randint(1, 4) * dice.randint(1, 4), 12)
            price = 0 if dice.random() < 0.01 else dice.randint(599, 2_599)
            day = f"199{dice.randint(7, 8)}-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}"
            customer = f"C{dice.randint(1, max(1, count // 3)):05}"
            rows.writerow([f"O{number:06}", customer, day, units, units * price, "USD"])
    return path
