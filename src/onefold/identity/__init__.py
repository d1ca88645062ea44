"""Who asks, and what they may do: tokens now; accounts, sessions, permissions, vault, audit later."""
