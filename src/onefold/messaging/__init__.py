"""Messaging: move work and facts. Idempotency, jobs, events."""
