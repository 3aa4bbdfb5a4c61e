"""Fixtures of whole-system tests."""

from __future__ import annotations

import pytest

from kb_pipeline_tests.acceptance import homes
from kb_pipeline_tests.acceptance.homes import Homes


@pytest.fixture
def homes_of(request: pytest.FixtureRequest) -> Homes:
    """Empty homes of the kind that the test's parameter names."""
    return homes.of_kind(request.param, lambda: request.getfixturevalue("s3"), lambda: request.getfixturevalue("postgres"))
