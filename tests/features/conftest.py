"""One real Feast repository for all tests that only read it."""

from pathlib import Path

import pytest
from features import repository


@pytest.fixture(scope="session")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository.write(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def materialized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose online store plain Feast filled; only read."""
    return repository.materialize(repository.write(tmp_path_factory.mktemp("materialized")))
