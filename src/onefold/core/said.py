"""What others said, as it is kept for people: messages of errors, answers of servers."""

from __future__ import annotations


def message_of(error: BaseException) -> str:
    """The error's class and what it says; its class alone when it cannot say it."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # An error's own text is somebody's code as well.
        return name


def storable(text: str, most: int) -> str:
    """The first `most` characters of `text`, without what no database takes: NUL, and surrogates.

    Names of files come with surrogates, and messages with names of files.
    """
    return text[:most].replace("\0", "").encode(errors="replace").decode()
