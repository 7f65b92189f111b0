"""Tokens by their hashes, and whose they are."""

from __future__ import annotations

import hashlib

import pytest

from workers.http.tokens import actor_of, known_tokens
from workers.settings import Settings, SettingsError


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


KNOWN = known_tokens(f"shop={hashed('old')} shop={hashed('new')}\n  office={hashed('other')}")


@pytest.mark.parametrize(
    ("token", "actor"), [("old", "shop"), ("new", "shop"), ("other", "office"), ("none", None)]
)
def test_a_token_names_its_actor(token: str, actor: str | None) -> None:
    assert actor_of(token, KNOWN) == actor


def test_a_hash_is_no_token() -> None:
    assert actor_of(hashed("old"), KNOWN) is None
    assert actor_of("", KNOWN) is None
    assert actor_of("\udc80", KNOWN) is None


def test_without_tokens_there_is_nobody() -> None:
    assert known_tokens(None) == known_tokens(" ") == []
    assert actor_of("old", []) is None


@pytest.mark.parametrize(
    "entry", ["old", f"={hashed('old')}", f"Shop={hashed('old')}", "shop=abc", hashed("old")]
)
def test_a_wrong_entry_stops_the_server_and_is_not_repeated(entry: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load(http_tokens=f"shop={hashed('a')} {entry}")

    assert "AMENDS_HTTP_TOKENS" in str(refused.value)
    assert "entry 2" in str(refused.value)
    assert entry not in str(refused.value)


def test_no_hash_is_shown() -> None:
    settings = Settings.load(http_tokens=f"shop={hashed('a')}")

    assert hashed("a") not in f"{settings!r}{KNOWN!r}"
