"""Fixtures of the tests that use everything as its users do."""

from tests.deployment import deployment  # noqa: F401 - a fixture
