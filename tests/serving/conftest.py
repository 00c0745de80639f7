"""Two adapters over the embedded model, opened once for all tests of the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import Client, opened_runs, served

from summarizer.runs.loaded_run import LoadedRun


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    return opened_runs(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def client(opened: LoadedRun) -> Iterator[Client]:
    with served(opened) as client:
        yield client
