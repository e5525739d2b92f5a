"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data: beside the project, or where ATOMICA_SHARED says."""
    stated = os.environ.get("ATOMICA_SHARED")
    folder = Path(stated) if stated else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "fixtures").is_dir():
        pytest.skip(f"no reference data at {folder}; set ATOMICA_SHARED to the folder that holds fixtures/ and data/")
    return folder
