"""Toxics: what may befall the bytes between two parties. Names, fields and units are toxiproxy's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from onefold.core.errors import Invalid

Stream = Literal["upstream", "downstream"]

MS_MAX = 3_600_000
NAME_LENGTH_MAX = 200
BYTES_MAX = 1 << 40


class Attributes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one type of toxic. All numbers are whole, 0 or more; times are milliseconds unless said otherwise."""

    type: ClassVar[str]


class Latency(Attributes, frozen=True):
    """All data comes `latency` ± `jitter` later; its order stays."""

    type: ClassVar[str] = "latency"
    latency: int = 0
    jitter: int = 0


class Bandwidth(Attributes, frozen=True):
    """At most `rate` KB (1,000 bytes) a second; 0 lets nothing through."""

    type: ClassVar[str] = "bandwidth"
    rate: int = 0


class SlowClose(Attributes, frozen=True):
    """The end of a stream is told `delay` later."""

    type: ClassVar[str] = "slow_close"
    delay: int = 0


class Timeout(Attributes, frozen=True):
    """Data is dropped, and the connection closed after `timeout`; 0 never closes it."""

    type: ClassVar[str] = "timeout"
    timeout: int = 0


class ResetPeer(Attributes, frozen=True):
    """The connection is reset (RST) after `timeout`; 0 at once."""

    type: ClassVar[str] = "reset_peer"
    timeout: int = 0


class Slicer(Attributes, frozen=True):
    """Data comes in pieces of `average_size` ± `size_variation` bytes, `delay` microseconds apart."""

    type: ClassVar[str] = "slicer"
    average_size: int = 0
    size_variation: int = 0
    delay: int = 0


class LimitData(Attributes, frozen=True):
    """The connection is closed once `bytes` have passed since the toxic was added."""

    type: ClassVar[str] = "limit_data"
    bytes: int = 0


TYPES: dict[str, type[Attributes]] = {
    kind.type: kind for kind in (Latency, Bandwidth, SlowClose, Timeout, ResetPeer, Slicer, LimitData)
}


class Toxic(msgspec.Struct, frozen=True):
    """One toxic of a proxy. `toxicity`: the share of connections that it befalls, drawn once both are there."""

    name: str
    type: str
    stream: Stream
    toxicity: float
    attributes: Attributes


def toxic_of(given: Mapping[str, Any], *, present: Toxic | None = None) -> Toxic:
    """A toxic as it was asked for; what is not said is as in `present`, or the default.

    Raises:
        Invalid: an unknown type, stream or attribute, or a number out of range.
    """
    kind = present.type if present else given.get("type")
    if type(kind) is not str or kind not in TYPES:
        raise Invalid("invalid toxic type", code="toxic_type", types=sorted(TYPES))
    stream = present.stream if present else given.get("stream") or "downstream"
    if stream not in ("upstream", "downstream"):  # noqa: PLR6201  It may be a list.
        raise Invalid("stream was invalid, can be either upstream or downstream", code="toxic_stream")
    name = present.name if present else given.get("name") or f"{kind}_{stream}"
    toxicity = given.get("toxicity", present.toxicity if present else 1.0)
    if type(name) is not str or not 1 <= len(name) <= NAME_LENGTH_MAX or "/" in name:
        raise Invalid("A toxic's name has 1 to 200 characters and no slash.", code="toxic_name")
    if type(toxicity) not in {int, float} or not 0 <= toxicity <= 1:
        raise Invalid("toxicity is a number from 0 to 1.", code="toxicity")
    before = msgspec.structs.asdict(present.attributes) if present else {}
    attributes = {**before, **_mapping(given.get("attributes"))}
    try:
        made = msgspec.convert(attributes, TYPES[kind])
    except msgspec.ValidationError as error:
        raise Invalid("The attributes do not fit the toxic.", code="attributes", type=kind, why=str(error)) from None
    for field, value in msgspec.structs.asdict(made).items():
        most = BYTES_MAX if field in {"bytes", "rate", "average_size", "size_variation"} else MS_MAX
        if not 0 <= value <= most:
            raise Invalid("An attribute is out of range.", code="attributes", field=field, most=most)
    if isinstance(made, Slicer) and (made.average_size < 1 or made.size_variation >= made.average_size):
        raise Invalid("A slicer's average_size is 1 or more, and larger than size_variation.", code="attributes")
    return Toxic(name, kind, stream, float(toxicity), made)


def _mapping(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Invalid("attributes are an object.", code="attributes")
    return value
