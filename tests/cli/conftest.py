"""The command line is tested on the ground that the blocks' own tests stand on."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).parent.parent
sys.path += [str(_TESTS / "messaging"), str(_TESTS / "engine")]  # jobs_ground, events_kinds, postgres_proxy
