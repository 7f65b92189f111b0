"""``python -m benchmarks.redaction``: MB of log per second of CPU, and the time of hostile text.

Every line has a timestamp, a UUID and a 19-digit id; one in ten has a card number. The second table
shows milliseconds per megabyte at 1, 2, 4 and 8 MB: a row that stays level is linear.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import uuid
from collections.abc import Callable

from orchestrator.redaction import redact

CARDS = (
    "4242424242424242",
    "5555 5555 5555 4444",
    "378282246310005",
    "6011-1111-1111-1117",
    "30569309025904",
)
HOSTILE = {
    "one long run of digits": "4",
    "groups without an end": "4242 ",
    "wrong check digits": "4242 4242 4242 4241 ",
    "nothing but cards": "4242424242424242 ",
    "cards within hex": "a4242424242424242",
    "percent escapes": "%34",
    "full-width digits": "\uff14",
    "zero-width spaces": "4\u200b",
    "labels": "cvv ",
    "labels of cards": "card number 4",
    "beginnings of tokens": "eyJ",
    "beginnings of URLs": "://a:",
    "IBANs": "DE89 3704 ",
}
MEGABYTE = 1_000_000


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    lines = _lines(arguments.lines)
    bare = [each for each in lines if "paid with" not in each]
    whole = "\n".join(lines)
    by_line = _seconds(lambda: [redact(each) for each in lines], rounds=3)
    at_once = _seconds(lambda: redact(whole), rounds=3)
    size = sum(map(len, lines)) / MEGABYTE
    hidden = sum(redact(each) is not each for each in lines) / len(lines)
    wrong = sum(redact(each) is not each for each in bare)
    print(f"{len(lines):,} lines, {size:.1f} MB; CPU of one core")
    print(f"line by line {size / by_line:7.1f} MB/s")
    print(f"all at once  {size / at_once:7.1f} MB/s")
    print(f"changed      {hidden:.1%} of the lines; {wrong} of {len(bare):,} without a card")
    if arguments.quick:
        return
    print(f"\n{'hostile text, ms per MB at':28}{'1 MB':>8}{'2 MB':>8}{'4 MB':>8}{'8 MB':>8}")
    for name, unit in HOSTILE.items():
        row = [_per_megabyte(unit, size) for size in (1, 2, 4, 8)]
        print(f"{name:28}" + "".join(f"{each:8.0f}" for each in row), flush=True)


def _lines(count: int) -> list[str]:
    dice = random.Random(1)  # noqa: S311 - the same lines every time
    return [_line(number, dice) for number in range(count)]


def _line(number: int, dice: random.Random) -> str:
    event: dict[str, object] = {
        "event": "step.succeeded",
        "level": "info",
        "timestamp": f"2026-11-24T08:12:{number % 60:02}.{dice.randrange(10**6):06}Z",
        "saga_id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
        "event_id": dice.randrange(10**18, 2**63),
        "saga": "checkout",
        "step": "capture_payment",
        "direction": "forward",
        "attempt": 1,
        "amount_minor": dice.randrange(100, 100_000),
    }
    if number % 10 == 0:
        event["note"] = f"paid with {dice.choice(CARDS)}"
    return json.dumps(event)


def _per_megabyte(unit: str, megabytes: int) -> float:
    text = unit * (megabytes * MEGABYTE // len(unit))
    return _seconds(lambda: redact(text), rounds=1) * 1000 / megabytes


def _seconds(call: Callable[[], object], *, rounds: int) -> float:
    """CPU seconds of the best round: a busy machine makes none faster."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        call()
        best = min(best, time.process_time() - began)
    return best


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=int, default=40_000)
    parser.add_argument("--quick", action="store_true", help="without the hostile text")
    return parser.parse_args()


if __name__ == "__main__":
    main()
