"""What a run is made of: a program for its clients, and the model that their history is judged by."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onefold.core.errors import Invalid
from onefold.engine.tx import Tx
from onefold.testing.checkers.check import NAMES

if TYPE_CHECKING:
    from onefold.testing.workload.client import Client

Program = Callable[["Client"], object]


@dataclass(frozen=True)
class Workload:
    """A program and its model.

    Attributes:
        program: what a client does with its life, called anew when it returns; for `run` a function of a module,
            since other processes import it.
        model: a checker's name, as `onefold check --model` takes it.
        options: of that checker; see `check`.
        setup: runs once, before all clients: tables, accounts.
        finish: what one client does at the very end, when nothing is broken any more: read all that there is.
    """

    program: Program
    model: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    setup: Callable[[Tx], object] | None = None
    finish: Program | None = None

    def __post_init__(self) -> None:
        """Refuse what no checker could judge."""
        if self.model not in NAMES:
            raise Invalid("There is no such model.", code="no_such_model", model=self.model, models=list(NAMES))


def place_of(program: Program) -> str:
    """`module:name`, by which another process finds the program.

    Raises:
        Invalid: another process could not.
    """
    module, name = getattr(program, "__module__", ""), getattr(program, "__qualname__", "")
    if module == "__main__" or getattr(sys.modules.get(module), name, None) is not program:
        raise Invalid(
            "A program is a function of a module that other processes can import.",
            code="not_importable", module=module, name=name,
        )  # fmt: skip
    return f"{module}:{name}"


def program_at(place: str) -> Program:
    """The program at `module:name`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
