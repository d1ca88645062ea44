"""From a route to what HTTP needs: how its arguments are read, and how its answer is written.

The parameters of the function after `tx` become the fields of a record made for the route.
Path and query fill it from text, the JSON body from JSON; strictly, with no field too many.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from onefold.core.codec import decoder_of
from onefold.core.errors import Invalid
from onefold.core.page import Page
from onefold.core.route import Route
from onefold.engine.values import INTEGER_MAX, INTEGER_MIN
from onefold.index import BLOCKS
from onefold.server.problems import Refused

PREFIX = "/v1"  # Of all routes of blocks.
PARAMETERS_MAX = 100  # Of one query.
_SLOT = re.compile(r"\{([a-z_]+)\}")
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)|null")  # Others write 1e3, 1.0 or 0x10; the description knows one way.
_LONG_NUMBER = re.compile(rb"\d{19}")  # The shortest that may pass 64 bits.

Fields = list[tuple[str, Any] | tuple[str, Any, Any]]


class Bound:
    """A route ready to serve."""

    __slots__ = (
        "answers_nothing", "answers_page", "block", "body_type", "by_path", "caller", "fn", "has_body", "many", "name",
        "needs", "path", "read_body", "returns", "streams", "text_type", "verb", "where", "whole",
    )  # fmt: skip

    def __init__(self, route: Route) -> None:
        hints = typing.get_type_hints(route.fn, include_extras=True)
        self.verb = route.verb
        self.path = route.path
        self.fn = route.fn
        self.needs = route.needs
        self.caller = route.caller
        self.where = f"{route.verb} {PREFIX}{route.path}"
        self.block = _block_of(route.fn.__module__)
        self.name = f"{self.block}.{route.fn.__name__}"
        self.by_path = tuple(_SLOT.findall(route.path))
        self.has_body = route.verb in {"POST", "PUT"}
        self.returns = hints.get("return", Any)
        self.answers_nothing = self.returns is type(None)
        self.answers_page = (typing.get_origin(self.returns) or self.returns) is Page
        self.streams = False  # Whether it can be followed; see `stream`.
        fields = _fields(route, hints)
        in_text = [field for field in fields if not self.has_body or field[0] in self.by_path]
        in_body = [field for field in fields if self.has_body and field[0] not in self.by_path]
        #: Parameters that may stand in a query more than once.
        self.many = frozenset(field[0] for field in in_text if _is_collection(field[1]))
        #: Parameters of the path and the query that are whole numbers.
        self.whole = frozenset(field[0] for field in in_text if _is_whole(field[1]))
        title = "".join(word.capitalize() for word in re.split(r"[._]", self.name))
        self.text_type = msgspec.defstruct(f"{title}Query", in_text, forbid_unknown_fields=True, kw_only=True)
        self.body_type = msgspec.defstruct(f"{title}Body", in_body, forbid_unknown_fields=True, kw_only=True)
        self.read_body: Callable[[bytes], Any] = decoder_of(self.body_type).decode
        decoder_of(self.text_type)  # So that `convert` finds the class looked at.

    def arguments(self, in_path: Mapping[str, str], query: bytes, body: bytes) -> dict[str, Any]:
        """The keyword arguments of the function after `tx`.

        Raises:
            Refused: 400; a value is missing, too many, of a wrong type, or not text as we know it.
        """
        text: dict[str, Any] = dict(in_path)
        if query:
            for name, value in _parsed(query):
                if name in self.many:
                    text.setdefault(name, []).append(value)
                elif name in text:
                    raise Refused(400, "invalid", "A parameter stands in the URL twice.", facts={"parameter": name})
                else:
                    text[name] = value
        for name in self.whole & text.keys():
            if not all(map(_WHOLE.fullmatch, text[name] if name in self.many else [text[name]])):
                raise Refused(400, "invalid", "A whole number is written in digits.", facts={"parameter": name})
        try:
            found: dict[str, Any] = {}
            if text or not self.has_body:
                found = msgspec.structs.asdict(msgspec.convert(text, self.text_type, strict=False))
            if self.has_body:
                found |= msgspec.structs.asdict(self.read_body(body or b"{}"))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(400, "invalid", _readable(error)) from None
        except RecursionError:
            raise Refused(400, "invalid", "The body is nested too deeply.") from None
        # The full look is dear, so it is taken only where a cheap one finds cause.
        if b"\\u0000" in body or b"%00" in query or any("\0" in value for value in in_path.values()):
            _refuse_nul(found)
        if _LONG_NUMBER.search(body) or _LONG_NUMBER.search(query) or in_path:
            _refuse_long(found)
        return found


def _block_of(module: str) -> str:
    """The block that a module belongs to; for routes of a program's own, the module's last name."""
    for block, home in BLOCKS.items():
        if module == home or module.startswith(f"{home}."):
            return block
    return module.rpartition(".")[2]


def _fields(route: Route, hints: Mapping[str, Any]) -> Fields:
    parameters = list(inspect.signature(route.fn).parameters.values())[1:]
    names = {parameter.name for parameter in parameters}
    if not {*_SLOT.findall(route.path), *filter(None, [route.caller])} <= names:
        raise Invalid("A route names a parameter that its function lacks.", route=route.path)
    fields: Fields = []
    for parameter in parameters:
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise Invalid("A route's function has named parameters only.", route=route.path, parameter=parameter.name)
        if parameter.name not in hints:
            raise Invalid("A route's parameters are annotated.", route=route.path, parameter=parameter.name)
        if parameter.name == route.caller:
            continue  # The server fills it; in a request it is one field too many.
        field = (parameter.name, hints[parameter.name])
        fields.append(field if parameter.default is parameter.empty else (*field, parameter.default))
    return fields


def _is_collection(hint: Any) -> bool:
    """Whether a list is among what the annotation takes."""
    origin = typing.get_origin(hint) or hint
    if origin is typing.Annotated:
        return _is_collection(typing.get_args(hint)[0])
    if origin in {typing.Union, types.UnionType}:
        return any(_is_collection(part) for part in typing.get_args(hint))
    return isinstance(origin, type) and issubclass(origin, Collection) and not issubclass(origin, (str, bytes, Mapping))


def _is_whole(hint: Any) -> bool:
    """Whether the annotation takes whole numbers (or lists of them), and no other numbers or texts."""
    kinds = set(_kinds(hint))
    return int in kinds and not kinds & {str, float}


def _kinds(hint: Any) -> Iterator[Any]:
    """The types in an annotation at any depth."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        yield from map(type, parts)
    elif origin is typing.Annotated:
        yield from _kinds(parts[0])
    elif parts:
        for part in parts:
            yield from _kinds(part)
    else:
        yield hint


def _parsed(query: bytes) -> list[tuple[str, str]]:
    pairs = [pair for pair in query.split(b"&") if pair]
    if len(pairs) > PARAMETERS_MAX:
        raise Refused(400, "invalid", "The query has too many parameters.", facts={"most": PARAMETERS_MAX})
    split = (pair.replace(b"+", b" ").partition(b"=") for pair in pairs)
    return [(text_of(name), text_of(value)) for name, _, value in split]


def text_of(raw: bytes) -> str:
    """Undo the percent signs; 400 when what comes out is not UTF-8."""
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise Refused(400, "invalid", "The URL is not UTF-8.") from None


def _readable(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "The body is not UTF-8."
    text = str(error)[:300]
    return text.encode("utf-8", "replace").decode()


def _refuse_nul(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise Refused(400, "nul", "A text cannot hold the character NUL.")
    else:
        for part in _parts(value):
            _refuse_nul(part)


def _refuse_long(value: Any) -> None:
    if isinstance(value, int):
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise Refused(400, "integer_range", "A whole number has at most 64 bits.")
    else:
        for part in _parts(value):
            _refuse_long(part)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    return []
