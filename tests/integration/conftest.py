"""Fixtures of the tests that run real processes."""

from tests.worker_processes import client, settings, start_worker  # noqa: F401 - fixtures
