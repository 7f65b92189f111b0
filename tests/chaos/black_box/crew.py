"""The processes of a black-box run, as a supervisor keeps them: whoever ends is started again."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.deployment import Deployment, Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One place in the crew: how many serve at it, and how one is started."""

    name: str
    count: int
    start: Callable[[Deployment], Member]


POSTS = (
    Post(name="threads", count=2, start=lambda it: it.start_worker(is_ready=False)),
    Post(
        name="prefork",
        count=1,
        start=lambda it: it.start_worker(pool="prefork", concurrency=2, is_ready=False),
    ),
    Post(
        name="sweeper",
        count=1,
        start=lambda it: it.start("sweeper", ["-m", "recovery.cli", "sweep"]),
    ),
    Post(
        name="edge",
        count=1,
        start=lambda it: it.start(
            "edge", ["-m", "recovery.cli", "serve", "--port", str(it.variables["edge_port"])]
        ),
    ),
)


class Crew:
    """Keeps every post filled, as systemd or Kubernetes would."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._members: dict[str, list[Member]] = {post.name: [] for post in POSTS}
        self.restarts = 0

    def muster(self) -> None:
        """Fill every post for the first time, and return when the workers take messages."""
        self.fill()
        self.restarts = 0
        for name in ("threads", "prefork"):
            for each in self._members[name]:
                each.wait_ready()

    def fill(self) -> None:
        """Start again whoever has ended."""
        for post in POSTS:
            living = [each for each in self._members[post.name] if each.is_alive]
            while len(living) < post.count:
                living.append(post.start(self._deployment))
                self.restarts += 1
            self._members[post.name] = living

    def one_of(self, post: str, dice: random.Random) -> Member:
        """Return a living member of a post."""
        self.fill()
        return dice.choice(self._members[post])

    def at(self) -> Mapping[str, list[Member]]:
        """Return who serves where now."""
        return self._members
