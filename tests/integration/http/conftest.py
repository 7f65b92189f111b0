"""One server for all tests of a file that only ask; those that break things start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http_edge import HttpEdge, serving
from tests.servers import Databases


@pytest.fixture(scope="module")
def edge(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpEdge]:
    url = databases.create()
    with serving(url, tmp_path_factory.mktemp("http")) as running:
        yield running
    databases.drop(url)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path
