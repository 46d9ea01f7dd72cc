"""Lives of databases: after any order of moves and changes every vector is right, and no statement has failed.

A short life for each layout, the same in every run. `make chaos` lives others: see lives.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Cluster
from life import LAYOUTS
from lives import live
from moves import MOVES

SEED = 7


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_order_of_moves_and_changes_ends_in_step(
    clusters: Callable[[int], Cluster], layout: str, tmp_path: Path
) -> None:
    versions = (clusters(16), clusters(18)) if layout == "table" else (clusters(18), clusters(16))
    live(versions, SEED, layout, tmp_path, list(MOVES), length=5)
