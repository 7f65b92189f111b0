"""Fixtures of the tests that use everything as its users do."""

from tests.bank import bank  # noqa: F401 - a fixture
from tests.deployment import deployment  # noqa: F401 - a fixture
from tests.outside_world import world  # noqa: F401 - a fixture
