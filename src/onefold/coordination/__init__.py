"""Coordination: agree on who. Locks now; election, membership and health beside them."""
