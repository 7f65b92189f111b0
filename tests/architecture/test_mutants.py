"""Every mutant still names text and a test that are there; `make mutants` judges them."""

import re
from pathlib import Path

import pytest

from tests.mutants.__main__ import Mutant, load, mutated

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", load(), ids=lambda each: each.name)
def test_a_mutant_can_be_made_and_names_a_test(mutant: Mutant) -> None:
    path, _, name = mutant.test.partition("::")

    compile(mutated(mutant), mutant.file, "exec")
    function = re.escape(name.split("::")[-1].partition("[")[0])
    assert re.search(rf"def {function}\(", (ROOT / path).read_text())


def test_names_of_mutants_are_unique() -> None:
    names = [each.name for each in load()]

    assert len(names) == len(set(names))
