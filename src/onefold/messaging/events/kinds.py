"""Kinds of events: records with a durable name, and how old ones are read.

The name and the version of its shape are stored with every event, the class is not: it may move
and be renamed. A field that is added needs a default; any other change needs a new `version` and
an `upcast`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from onefold.core.codec import decoder_of
from onefold.core.errors import Invalid
from onefold.core.limits import text, whole

KIND_LENGTH_MAX = 100
KIND_VERSION_MAX = 10_000

S = TypeVar("S", bound=msgspec.Struct)
Upcast = Callable[[dict[str, Any], int], dict[str, Any]]

_NAME = re.compile(r"[a-z0-9][a-z0-9_.\-]*")
KindName = Annotated[str, text(1, KIND_LENGTH_MAX, _NAME)]
KindVersion = Annotated[int, whole(1, KIND_VERSION_MAX)]
_ATTRIBUTE = "__onefold_event_kind__"


class Kind(NamedTuple):
    """What `kind` noted about a class."""

    name: str
    version: int
    upcast: Upcast | None


def kind(name: str, *, version: int = 1, upcast: Upcast | None = None) -> Callable[[type[S]], type[S]]:
    """Give a frozen `msgspec.Struct` the name under which its events are stored, for ever.

    Args:
        name: "order.placed"; small letters, digits, ".", "_", "-"; 1 to 100.
        version: of the shape of the data, 1 to 10,000; raise it when old data needs `upcast`.
        upcast: `upcast(data, from_version)` answers data in the present shape; called for events
            that were stored with a lower version. It must be a pure function.

    Raises:
        Invalid: the name or version is out of range, or the class is no frozen Struct.
    """
    checked_kind(name, version)

    def mark(cls: type[S]) -> type[S]:
        config = getattr(cls, "__struct_config__", None)
        if config is None or not config.frozen:
            raise Invalid("A kind of event is a frozen msgspec.Struct.", kind=name, type=cls.__name__)
        setattr(cls, _ATTRIBUTE, Kind(name, version, upcast))
        return cls

    return mark


def kind_of(cls: type) -> Kind:
    """The mark of a class; Invalid when `kind` never saw it (a base class's mark does not count)."""
    found = cls.__dict__.get(_ATTRIBUTE)
    if found is None:
        raise Invalid("The class has no durable name; decorate it with events.kind.", type=cls.__name__)
    assert isinstance(found, Kind)
    return found


def checked_kind(name: str, version: int) -> None:
    """Refuse a name or version that cannot be stored."""
    if len(name) > KIND_LENGTH_MAX or not _NAME.fullmatch(name):
        raise Invalid("A kind is named by 1 to 100 small letters, digits and . _ -", code="kind")
    if type(version) is not int or not 1 <= version <= KIND_VERSION_MAX:
        raise Invalid("The version of a kind is out of range.", code="kind", most=KIND_VERSION_MAX)


def open_data(data: bytes, stored: tuple[str, int], cls: type[S]) -> S:
    """Stored JSON as the class of today.

    Raises:
        Invalid: written by a newer version of the kind, in an older one without an upcast, or the
            data does not fit the class.
    """
    name, version = stored
    known = kind_of(cls)
    if version > known.version:
        raise Invalid(
            "The event was written by a newer version of its kind.", code="kind_newer",
            kind=name, stored=version, known=known.version,
        )  # fmt: skip
    try:
        if version == known.version:
            return decoder_of(cls).decode(data)
        if known.upcast is None:
            raise Invalid("The kind has no upcast for old events.", code="no_upcast", kind=name, stored=version)
        decoder_of(cls)  # So that `convert` finds the class looked at.
        return msgspec.convert(known.upcast(msgspec.json.decode(data), version), cls)
    except msgspec.DecodeError as error:
        raise Invalid("The event does not fit its kind.", code="misfit", kind=name, why=str(error)) from None
