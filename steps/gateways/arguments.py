"""What every adapter makes sure of before it sends anything."""

from __future__ import annotations

from steps.gateways.errors import InvalidRequestError


def checked_key(key: str, *, longest: int) -> str:
    """Return a key that any gateway can take in a header.

    Raises:
        InvalidRequestError: ``invalid_key``: it is empty, too long, or not printable ASCII.
    """
    if key.isascii() and key.isprintable() and 0 < len(key) <= longest:
        return key
    raise InvalidRequestError(
        f"an idempotency key is 1 to {longest} printable ASCII characters", code="invalid_key"
    )


def one_name(**names: str | None) -> dict[str, str]:
    """The one name that was given to find by.

    Raises:
        ValueError: none or several were given.
    """
    given = {name: value for name, value in names.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"find by exactly one of {', '.join(names)}")
    return given
