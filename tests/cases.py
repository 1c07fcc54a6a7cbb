"""Cases of one table, of which some are enough for every day."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def all_but(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """The cases, those that are not `quick` left to `pytest -m slow`."""
    return [
        case if case in quick else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]
