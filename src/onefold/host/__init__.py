"""The operating system: files, locks, processes. Knows nothing of databases."""
