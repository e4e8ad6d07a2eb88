"""Tests keep what they measure and sign in a folder of their own."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test reads or writes the user's keys and caches."""
    home = tmp_path_factory.mktemp("home")
    os.environ["HOTLAP_HOME"] = str(home)
    return home
