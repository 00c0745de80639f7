"""Two adapters over the embedded model, loaded once for all tests of the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import Client, loaded_runs, served

from summarizer.runs.loaded_run import LoadedRun


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    return loaded_runs(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def client(loaded: LoadedRun) -> Iterator[Client]:
    with served(loaded) as client:
        yield client
