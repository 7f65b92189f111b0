"""For tests of the scenarios: which cells a scenario's expectations leave red."""

from __future__ import annotations

from collections.abc import Sequence

from recovery.demo.scenarios.table import Expectation, Place, Row


def red(expectations: Sequence[Expectation]) -> set[Place]:
    row = Row(number=1, title="one", expectations=expectations)
    return {each for each in Place if not row.cell_holds(each)}
