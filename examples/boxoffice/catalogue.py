"""The season: what is played, read from catalogue.toml."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import msgspec

_FILE = Path(__file__).with_name("catalogue.toml")


class Work(msgspec.Struct, frozen=True):
    """A play or an opera.

    Attributes:
        slug: what it is called in addresses.
        title: as on the poster; unique, shows are found by it.
        by: who wrote or composed it.
        year: of the first performance or of writing; negative is BC.
        genre: one of five or so.
        minutes: of an evening, intervals included.
        line: what happens, in one sentence.
    """

    slug: str
    title: str
    by: str
    year: int
    genre: str
    minutes: int
    line: str

    @property
    def year_text(self) -> str:
        """The year as people say it."""
        return str(self.year) if self.year > 0 else f"{-self.year} BC"

    @property
    def sung(self) -> bool:
        """Whether an orchestra plays, which costs."""
        return self.genre in {"Opera", "Operetta"}


@cache
def works() -> dict[str, Work]:
    """All works by slug, in the order of the file."""
    listed = msgspec.convert(tomllib.loads(_FILE.read_text(encoding="utf-8"))["work"], list[Work])
    found = {work.slug: work for work in listed}
    assert len(found) == len(listed) == len({work.title for work in listed}), "slugs and titles are unique"
    return found


@cache
def by_title() -> dict[str, Work]:
    """All works by title."""
    return {work.title: work for work in works().values()}


@cache
def genres() -> list[str]:
    """All genres, the largest first."""
    names = [work.genre for work in works().values()]
    return sorted(set(names), key=lambda genre: (-names.count(genre), genre))
