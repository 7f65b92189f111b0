"""The list of what the independent witness cannot hold is not allowed to go stale."""

import re
from pathlib import Path

from tests.contract.localstripe import CANNOT_HOLD


def test_every_excuse_of_the_witness_names_a_test() -> None:
    here = Path(__file__).parent
    tests = {
        name
        for path in here.glob("test_payment_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }

    assert {name.partition("[")[0] for name in CANNOT_HOLD} <= tests
    assert len(CANNOT_HOLD) < len(tests)
