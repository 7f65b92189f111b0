"""For tests of the scenarios: which cells a scenario's facts leave red."""

from __future__ import annotations

from collections.abc import Sequence

from recovery.demo.scenarios.table import Fact, Place, Row


def red(facts: Sequence[Fact]) -> set[Place]:
    row = Row(number=1, title="one", facts=facts)
    return {each for each in Place if not row.cell_holds(each)}
