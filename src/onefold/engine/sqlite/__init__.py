"""The embedded engine: one file, one writer at a time, group commit, snapshot readers."""
