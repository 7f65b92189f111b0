"""Fixtures of the tests that run real processes."""

from tests.bank import bank  # noqa: F401 - a fixture
from tests.worker_processes import client, settings, start_worker  # noqa: F401 - fixtures
