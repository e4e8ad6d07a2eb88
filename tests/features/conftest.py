"""One real Feast repository for all tests that only read it."""

from pathlib import Path

import pytest
from features import repository


@pytest.fixture(scope="session")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository.write(tmp_path_factory.mktemp("repository"))
