"""What runs beside the program: the supervisor of background loops."""

from __future__ import annotations

from onefold.runtime.loops import all_loops
from onefold.runtime.supervisor import Supervisor

__all__ = ["Supervisor", "all_loops"]
