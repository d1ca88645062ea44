"""`onefold check`: what a recorded history says of the system that made it."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import Any

from onefold.cli.answer import say
from onefold.cli.progress import Progress
from onefold.core.errors import Invalid
from onefold.testing.checkers import Verdict, check, edn, read_history, svg

EXIT_CODES = {True: 0, False: 1, None: 2}
_OPTIONS = (
    "consistency_model", "whole", "assume", "independent", "permits", "total", "allow_negative", "linearizable",
)  # fmt: skip


def command(options: argparse.Namespace) -> int:
    """Check a file; 0 valid, 1 invalid, 2 unknown (or, as everywhere, invalid input; 3 no such file)."""
    given = {name: value for name in _OPTIONS if (value := getattr(options, name)) not in (None, False, [])}
    if options.initial is not None:
        given["initial"] = _value(options.initial)
    verdict = _verdict(options, given)
    options.exit_code = EXIT_CODES[verdict.valid]  # Also if nobody reads the lines to their end.
    say(options, _facts(options, verdict), verdict.lines)
    if options.svg:
        try:
            Path(options.svg).write_text(svg(verdict), encoding="utf-8")
        except OSError as error:
            raise Invalid("The drawing cannot be written.", path=options.svg, why=error.strerror) from None
    return options.exit_code


def _value(text: str) -> Any:
    """A value of the command line, as it stands in a history."""
    values = list(edn.read_all(text))
    if len(values) != 1:
        raise Invalid("Of --initial one value was expected.", initial=text)
    return edn.frozen(values[0])


def _verdict(options: argparse.Namespace, given: dict[str, Any]) -> Verdict:
    collects = gc.isenabled()
    gc.disable()  # A history is millions of small objects that stay; to look for garbage there takes half the time.
    try:
        with Progress(options) as tell:
            tell("reading", 0, 0)
            history = read_history(options.file)
            tell(f"checking {len(history):,} operations, for at most {options.deadline_s:g} s", 0, 0)
            return check(history, options.model, deadline_s=options.deadline_s, **given)
    finally:
        if collects:
            gc.enable()


def _facts(options: argparse.Namespace, verdict: Verdict) -> dict[str, object]:
    return {"file": options.file, "model": options.model or verdict.checker.split()[0], **verdict.facts()}
