"""What happens often in a walk: each profile goes where protections of one kind are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How likely things are.

    Args:
        likely: faults that happen more often than others, each with its probability.
        cancels: how likely the client is to cancel.
        declines: how likely the other side is to refuse the last step.
        beyond: how likely the world is to break its contract.
        stubborn: how likely the other side is to keep a failure for every key of an undo.
        lies: how likely an operator is to lie.
        is_shared: another installation has walked a saga of the same key there before.
        spares: every saga has a step that a later step's undo undoes too.
    """

    name: str
    likely: Mapping[str, float] = field(default_factory=dict)
    cancels: float = 0.2
    declines: float = 0.3
    beyond: float = 0.4
    stubborn: float = 0.0
    spares: bool = False
    lies: float = 0.0
    is_shared: bool = False


ANY = Profile(name="any")
WAITS = Profile(
    name="waits",
    likely={"challenged": 0.6, "lookup_lags": 0.2, "killed_after": 0.1, "answer_lost": 0.2},
    cancels=0.5,
)
UNDOS = Profile(
    name="undos",
    likely={"kept_500": 0.15, "kept_500_after": 0.15, "lookup_lags": 0.2},
    cancels=0.6,
    declines=0.7,
    beyond=0.1,
    stubborn=0.1,
)
SECONDS = Profile(
    name="second effects",
    likely={"challenged": 0.3},
    cancels=0.6,
    beyond=0.9,
    spares=True,
)
LIARS = Profile(
    name="liars",
    likely={"lookup_fails": 0.8, "kept_500": 0.1, "kept_500_after": 0.2, "answer_lost": 0.2},
    declines=0.5,
    beyond=0.0,
    stubborn=0.3,
    lies=0.8,
)
SHARED = Profile(name="two installations", beyond=0.0, is_shared=True)
CALM = Profile(name="calm", cancels=0.0, declines=0.0, beyond=0.0)
_MOST = (WAITS, UNDOS, SECONDS)
PROFILES = (ANY, *_MOST, LIARS, *_MOST, SHARED, *_MOST)
