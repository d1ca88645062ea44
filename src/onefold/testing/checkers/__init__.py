"""Checkers: what a recorded history says of the system that made it. See README.md beside this file."""
