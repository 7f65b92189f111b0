"""Fixtures of the tests that break what runs."""

from tests.deployment import deployment  # noqa: F401 - a fixture
