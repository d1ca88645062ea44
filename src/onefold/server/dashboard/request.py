"""What a page is asked with, read strictly: an unknown or malformed parameter is refused, never guessed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from onefold.identity import tokens
from onefold.server.problems import Refused

FIELDS_MAX = 20
FORM_BYTES_MAX = 16_384
CURSOR_LENGTH_MAX = 300
TEXT_LENGTH_MAX = 200  # Of what is no field of a block, which has its own.

C = TypeVar("C", bound=str)


class Fields:
    """The fields of a query or a form, each given once; `finish` refuses those that nobody asked for."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) > FORM_BYTES_MAX:
            raise Refused(413, "too_large", "The form is too large.", facts={"most_bytes": FORM_BYTES_MAX})
        try:
            pairs = parse_qsl(
                raw.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=bool(raw),
                max_num_fields=FIELDS_MAX,
                errors="strict",
            )
        except ValueError:
            raise _refused("The parameters cannot be read.") from None
        self._fields = dict(pairs)
        if len(self._fields) != len(pairs):
            raise _refused("A parameter stands there twice.")
        self._asked: set[str] = set()

    def text(self, name: str, *, most: int = TEXT_LENGTH_MAX) -> str:
        """A text; "" when it was not given."""
        self._asked.add(name)
        value = self._fields.get(name, "")
        if len(value) > most or "\0" in value:
            raise _refused("A parameter is too long, or holds a NUL.", name)
        return value

    def must(self, name: str, *, most: int = TEXT_LENGTH_MAX) -> str:
        """A text of at least one character."""
        value = self.text(name, most=most)
        if not value:
            raise _refused("A parameter is missing.", name)
        return value

    def choice(self, name: str, choices: Sequence[C], *, otherwise: C | None = None) -> C:
        """One of `choices`; `otherwise` when it was not given."""
        value = self.text(name)
        if not value and otherwise is not None:
            return otherwise
        for choice in choices:
            if choice == value:
                return choice
        raise _refused("A parameter is none of those that there are.", name)

    def finish(self) -> None:
        """Refuse what nobody asked for."""
        if unknown := set(self._fields) - self._asked:
            raise _refused("There is no such parameter.", min(unknown))


class Scene:
    """Who looks at a page, from where, and what they may do."""

    def __init__(self, root: str, token: tokens.Token, form_token: str, now_ms: int) -> None:
        self.root = root
        self.token = token
        self.form_token = form_token
        self.now_ms = now_ms
        #: About the engine and the loops of this process, for the first page of tokens of the root space.
        self.numbers: dict[str, Any] | None = None
        #: What the window is called, where the title of the view does not tell one page from another.
        self.title = ""

    def may(self, right: str) -> bool:
        """Whether the token carries `right`."""
        return tokens.allows(self.token, right)

    def at(self, path: str, query: Mapping[str, str | None] | None = None) -> str:
        """The address of a page of the dashboard."""
        given = {name: value for name, value in (query or {}).items() if value}
        return f"{self.root}/{path}" + (f"?{urlencode(given)}" if given else "")


def _refused(why: str, name: str = "") -> Refused:
    return Refused(400, "parameter", why, facts={"name": name[:100]} if name else None)
