"""The fixtures of the small bundle that serving is tested with, for contracts that look at a whole bundle."""

from __future__ import annotations

import runpy
from pathlib import Path

NAMES = "encoder exported item_vectors purchases parts facts written online bundle read_users"

_fixtures = runpy.run_path(str(Path(__file__).parents[1] / "serving" / "conftest.py"))
globals().update({name: _fixtures[name] for name in NAMES.split()})
