"""What anybody who reaches the broker could put there: rubbish, and messages that look right."""

from __future__ import annotations

import pickle
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.raw_messages import envelope

STEPS = (
    "reserve_inventory",
    "screen_fraud",
    "authorize_payment",
    "authorize_payment.compensate",
    "screen_authorization",
    "capture_payment",
    "capture_payment.compensate",
    "create_shipment",
)
MEGABYTE = 2**20
DEPTH = 20_000


class _Touch:
    """Unpickled, it makes a file: the proof that somebody read a pickle."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def forgeries(count: int, sagas: Sequence[UUID], touched: Path, seed: int = 1) -> Iterator[bytes]:
    """Messages of every sort, the rare and large ones rarely.

    Args:
        sagas: existing ones, none of which has a step that is due.
        touched: the file that a pickle would make.
    """
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    sorts = _sorts(sagas, touched, dice)
    weights = [1 if sort in _LARGE else 20 for sort in sorts]
    yield from (make() for make in sorts.values())  # each at least once
    for name in dice.choices(list(sorts), weights, k=max(0, count - len(sorts))):
        yield sorts[name]()


_LARGE = ("a megabyte", "a megabyte of no JSON", "deep", "a deep body")


def _sorts(
    sagas: Sequence[UUID], touched: Path, dice: random.Random
) -> dict[str, Callable[[], bytes]]:
    def known() -> dict[str, object]:
        return {"saga_id": str(dice.choice(sagas)), "attempt": dice.randint(1, 4)}

    def task() -> str:
        return f"checkout.{dice.choice(STEPS)}"

    def pickled() -> bytes:
        return typed("application/x-python-serialize", pickle.dumps(((), {}, _Touch(touched))))

    def typed(content_type: str, body: bytes | None = None) -> bytes:
        return envelope(task(), known(), body=body, **{"content-type": content_type})

    nested = b"[" * DEPTH + b"]" * DEPTH
    return {
        "no JSON": lambda: dice.randbytes(40),
        "cut short": lambda: envelope(task(), known())[:-30],
        "no envelope": lambda: b"[1, 2, 3]",
        "an empty envelope": lambda: b"{}",
        "no properties": lambda: b'{"body": "", "headers": {"task": "x", "id": "y"}}',
        "another content type": lambda: typed("text/plain"),
        "another encoding": lambda: envelope(task(), known(), **{"content-encoding": "klingon"}),
        "pickle": pickled,
        "yaml": lambda: typed("application/x-yaml", b"!!python/name:os.system"),
        "an unknown task": lambda: envelope("checkout.give_it_all_back", known()),
        "celery's own task": lambda: envelope("celery.backend_cleanup", {}),
        "no task": lambda: envelope(None, known()),
        "headers of another type": lambda: envelope(task(), known(), headers=7),
        "properties of another type": lambda: envelope(task(), known(), properties=[]),
        "positional": lambda: envelope(task(), {}, args=[str(dice.choice(sagas)), 1]),
        "too much": lambda: envelope(task(), known() | {"amount_minor": -1}, args=[1, 2, 3]),
        "too little": lambda: envelope(task(), {"saga_id": str(dice.choice(sagas))}),
        "wrong types": lambda: envelope(task(), {"saga_id": 7, "attempt": "first"}),
        "a huge attempt": lambda: envelope(task(), known() | {"attempt": 10**40}),
        "a negative attempt": lambda: envelope(task(), known() | {"attempt": -1}),
        "an id that is SQL": lambda: envelope(task(), {"saga_id": "' OR 1=1 --", "attempt": 1}),
        "arguments of another type": lambda: envelope(task(), "arguments"),
        "a body of another shape": lambda: envelope(task(), {}, body=b"7"),
        "a saga that is not there": lambda: envelope(
            task(), {"saga_id": str(uuid.UUID(int=dice.getrandbits(128))), "attempt": 1}
        ),
        "well formed, not due": lambda: envelope(task(), known()),
        "well formed, not due, again": lambda: envelope(task(), known()),
        "to be run later": lambda: envelope(
            task(),
            known(),
            headers={"task": task(), "id": str(uuid.uuid4()), "eta": "2999-01-01T00:00:00+00:00"},
        ),
        "a rude eta": lambda: envelope(
            task(), known(), headers={"task": task(), "id": str(uuid.uuid4()), "eta": "tomorrow"}
        ),
        "a start that is none": lambda: envelope("amends.start", {"saga": "checkout"}),
        "deep": lambda: b'{"body": ' + nested + b"}",
        "a deep body": lambda: envelope(task(), {}, body=b"[[], " + nested + b", {}]"),
        "a megabyte": lambda: envelope(task(), known() | {"note": "x" * MEGABYTE}),
        "a megabyte of no JSON": lambda: b"x" * MEGABYTE,
    }
