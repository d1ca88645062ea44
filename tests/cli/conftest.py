"""The command line is tested on the ground that the blocks' own tests stand on."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "messaging"))  # jobs_ground, events_kinds
