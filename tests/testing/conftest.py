"""The scenarios use the halls, banks and kinds that the tests of the blocks have."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path += [str(TESTS / folder) for folder in ("products", "messaging", "identity") if str(TESTS / folder) not in sys.path]
