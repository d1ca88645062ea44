"""What a page and an action are to the site: a right, and a function from the fields to one over `tx`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onefold.engine.tx import Tx
from onefold.identity import audit
from onefold.server.dashboard.markup import Markup
from onefold.server.dashboard.request import Fields, Scene

Draw = Callable[[Tx, Scene], Markup]


@dataclass(frozen=True, slots=True)
class View:
    """A page.

    Attributes:
        title: of the page, and in the navigation.
        needs: the right that its reader must have; "" for everybody who is logged in.
        prepare: reads the fields, before any transaction; what it answers reads and draws, in one.
        listed: whether it stands in the navigation.
        live: whether it is drawn anew while somebody looks at it.
        of_root: whether only tokens of the root space see it.
        under: the page of the navigation that it belongs to, if it does not stand there itself.
    """

    title: str
    needs: str
    prepare: Callable[[Fields], Draw]
    listed: bool = True
    live: bool = True
    of_root: bool = False
    under: str = ""

    def open_to(self, scene: Scene) -> bool:
        """Whether whoever looks may see it."""
        return (not self.needs or scene.may(self.needs)) and not (self.of_root and scene.token.space_name)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an action did, as recorded, and which page shows it."""

    entry: audit.Record
    path: str
    query: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Action:
    """What a form does.

    Attributes:
        needs: the right that it takes.
        prepare: reads the fields; what it answers acts and records it, in one transaction.
        of_root: whether only tokens of the root space may.
    """

    needs: str
    prepare: Callable[[Fields], Callable[[Tx, Scene], Outcome]]
    of_root: bool = False
