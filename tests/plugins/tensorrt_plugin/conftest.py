"""The operators' cases, oracle and hosts are one folder up."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
