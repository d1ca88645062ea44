"""Every decision of a simulation, drawn from a seed, written down, and given again.

Decisions come in streams: who goes next is one, the faults of each client are another. Each stream has
dice of its own, so that one client less does not change what befalls the others. In every stream 0 is
the simplest decision (go on, no fault, no delay): a stream that is at its end gives zeros, and whoever
looks for a smaller failure puts zeros in.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable, Mapping
from random import Random

from onefold.core.errors import Invalid

Script = Mapping[str, list[int]]

REPLAY_BYTES_MAX = 1 << 20


class Stream:
    """The decisions of one kind."""

    __slots__ = ("_given", "_random", "made")

    def __init__(self, seed: int, name: str, given: list[int] | None) -> None:
        self._given = None if given is None else iter(given)
        self._random = Random(f"{seed}/{name}")  # noqa: S311  Not for secrets; the seed must tell it.
        #: What was decided, in order.
        self.made: list[int] = []

    def take(self, below: int, draw: Callable[[Random], int]) -> int:
        """The next decision, 0 to `below` - 1: as it was given, or as `draw` throws the dice."""
        value = draw(self._random) if self._given is None else next(self._given, 0)
        if value >= below:
            value = below - 1
        self.made.append(value)
        return value


class Choices:
    """All streams of one run."""

    def __init__(self, seed: int, script: Script | None = None) -> None:
        """Draw from `seed`, or where there is a script, follow it."""
        self.seed = seed
        self._script = script
        self._streams: dict[str, Stream] = {}

    def stream(self, name: str) -> Stream:
        """The stream of that name; the same one every time."""
        stream = self._streams.get(name)
        if stream is None:
            given = None if self._script is None else self._script.get(name, [])
            stream = self._streams[name] = Stream(self.seed, name, given)
        return stream

    def script(self) -> dict[str, list[int]]:
        """What was decided, ready to be given again: without the zeros at the ends."""
        made = {name: without_end(stream.made) for name, stream in self._streams.items()}
        return {name: values for name, values in made.items() if values}


def without_end(values: list[int]) -> list[int]:
    """The values up to the last that is not 0."""
    end = len(values)
    while end and not values[end - 1]:
        end -= 1
    return values[:end]


def to_text(seed: int, script: Script | None) -> str:
    """A seed, and where it is not enough a script, as the text that `replay=` takes."""
    if script is None:
        return str(seed)
    packed = zlib.compress(json.dumps(script, separators=(",", ":")).encode(), 9)
    return f"{seed}:{base64.urlsafe_b64encode(packed).decode().rstrip('=')}"


def from_text(text: str) -> tuple[int, Script | None]:
    """What `to_text` wrote.

    Raises:
        Invalid: it did not.
    """
    seed, colon, packed = text.partition(":")
    try:
        if not colon:
            return int(seed), None
        unpack = zlib.decompressobj()
        raw = unpack.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)), REPLAY_BYTES_MAX)
        script = json.loads(raw)
        if not unpack.eof or not all(type(v) is int and v >= 0 for values in script.values() for v in values):
            raise ValueError  # noqa: TRY301
        return int(seed), script
    except (ValueError, AttributeError, TypeError, zlib.error, binascii.Error) as error:
        raise Invalid("This is not what a failed simulation printed after replay=.", code="replay") from error
