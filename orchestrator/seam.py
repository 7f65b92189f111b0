"""The one seam around every durable action, so that a test can die before, after or in doubt.

A durable action is anything another process could have noticed: a commit, a published message, a
call to a gateway. Code names each of them by running it through `durable`; in production the
seam is one comparison. A test installs an interceptor, counts the actions of a run and then runs
again, dying at each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Interceptor(Protocol):
    """Stands between the engine and one durable action; must call `action` or raise."""

    def __call__(self, name: str, action: Callable[[], T], /) -> T: ...


_interceptor: Interceptor | None = None


def durable(name: str, action: Callable[[], T]) -> T:
    """Run `action`, which changes something outside this process, and return its result."""
    if _interceptor is None:
        return action()
    return _interceptor(name, action)


@contextmanager
def intercepted(interceptor: Interceptor) -> Iterator[None]:
    """Route every durable action of this process through `interceptor` while the block runs."""
    global _interceptor  # noqa: PLW0603 - the seam is process-wide by its nature
    previous, _interceptor = _interceptor, interceptor
    try:
        yield
    finally:
        _interceptor = previous
