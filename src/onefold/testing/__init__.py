"""Help for tests, ours and yours: real servers that start in a moment and leave nothing behind."""
