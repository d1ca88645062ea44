"""Said by parts that take no more work because the engine is being taken apart."""


class Parked(Exception):  # noqa: N818
    """Ask the engine for its new parts and submit again."""
