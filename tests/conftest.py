"""Tests keep what they measure and sign in a folder of their own."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
# No test times anything, so a slow machine fails none; the same cases every time.
settings.register_profile("hotlap", deadline=None, derandomize=True)
settings.load_profile("hotlap")


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test reads or writes the user's keys and caches, and none draws charts unasked."""
    home = tmp_path_factory.mktemp("home")
    os.environ["HOTLAP_HOME"] = str(home)
    os.environ["HOTLAP_CHARTS"] = "none"  # MLflow takes seconds to import; its own tests ask for it.
    return home
