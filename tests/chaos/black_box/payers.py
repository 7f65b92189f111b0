"""Payers in front of a challenge: most pass it, some do not, nobody stays away for ever."""

from __future__ import annotations

import random

import httpx2

from steps.gateways.sandbox.judge import LedgerRow
from tests.deployment import Deployment


class Payers:
    """Answers the challenges that the gateway has opened."""

    def __init__(self, deployment: Deployment, seed: int) -> None:
        self._judge = deployment.judge
        self._dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._open: dict[str, LedgerRow] = {}
        self._seen = 0

    def answer(self, *, everybody: bool = False) -> None:
        """Let each payer decide, or only about half of them."""
        try:
            for row in self._judge.movements(since=self._seen):
                self._seen = row.seq
                if row.answer == "requires_action" and row.payment_reference is not None:
                    self._open[row.payment_reference] = row
            for reference in list(self._open):
                if everybody or self._dice.random() < 0.5:
                    self._judge.end_challenge(reference, passed=self._dice.random() < 0.7)
                    del self._open[reference]
        except httpx2.HTTPError:
            return  # the gateway is away: they try again
