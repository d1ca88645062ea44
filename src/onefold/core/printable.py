"""Text from elsewhere, as a terminal, a log and XML can carry it."""

from __future__ import annotations

import re

# What commands a terminal, and what neither UTF-8 nor XML 1.0 has. Tabs and line feeds are all three's.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """The text, with control characters and halves of surrogate pairs written as Python writes them in a string."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
