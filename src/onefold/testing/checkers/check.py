"""Every checker by its name, as `onefold check --model NAME` calls them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from onefold.core.errors import Invalid
from onefold.testing.checkers.bank import check_bank
from onefold.testing.checkers.guess import guess
from onefold.testing.checkers.history import History
from onefold.testing.checkers.insertions import check_comments, check_sequential
from onefold.testing.checkers.linearizability import DEADLINE_S, check_linearizable
from onefold.testing.checkers.list_append import check_list_append
from onefold.testing.checkers.long_fork import check_long_fork
from onefold.testing.checkers.models import MODELS
from onefold.testing.checkers.rw_register import check_rw_register
from onefold.testing.checkers.sessions import check_sessions
from onefold.testing.checkers.set_full import check_set_full
from onefold.testing.checkers.total_queue import check_total_queue
from onefold.testing.checkers.unique_ids import check_unique_ids
from onefold.testing.checkers.verdict import Verdict

_TRANSACTIONAL: dict[str, tuple[Callable[..., Verdict], frozenset[str]]] = {
    "list-append": (check_list_append, frozenset({"consistency_model", "whole"})),
    "rw-register": (check_rw_register, frozenset({"consistency_model", "whole", "assume"})),
}
_SCANS: dict[str, tuple[Callable[..., Verdict], frozenset[str]]] = {
    "sessions": (check_sessions, frozenset()),
    "bank": (check_bank, frozenset({"total", "allow_negative"})),
    "set-full": (check_set_full, frozenset({"linearizable"})),
    "long-fork": (check_long_fork, frozenset()),
    "total-queue": (check_total_queue, frozenset()),
    "unique-ids": (check_unique_ids, frozenset()),
    "sequential": (check_sequential, frozenset()),
    "comments": (check_comments, frozenset()),
}
_OF_MODEL = {
    "register": {"initial"}, "cas-register": {"initial"}, "multi-register": {"initial"}, "counter": {"initial"},
    "semaphore": {"permits"},
}  # fmt: skip
DEADLINE_S_MAX = 86_400.0
NAMES = (*MODELS, *_TRANSACTIONAL, *_SCANS)


def check(history: History, model: str | None = None, *, deadline_s: float = DEADLINE_S, **options: Any) -> Verdict:
    """Check a history with the checker of this name.

    Args:
        model: one of `NAMES`: a sequential model for linearizability, `list-append`, `rw-register`, or what
            looks at a history once (`sessions`, `bank`, ...). None: the one whose operations the history has.
        deadline_s: for those that search, 0 to `DEADLINE_S_MAX`; the others take time in proportion to the history.
        options: those of the checker's own function. Of transactional checkers the consistency model is
            called `consistency_model`; `permits` is of the semaphore, `initial` of registers and counter,
            `independent` of all sequential models.

    Raises:
        Invalid: there is no such checker, it has no such option, the deadline is out of range, or the
            history is not of the model (`perhaps` names one that it may be of).
    """
    if not 0 <= deadline_s <= DEADLINE_S_MAX:
        raise Invalid("The deadline is out of range.", code="invalid", deadline_s=deadline_s, max=DEADLINE_S_MAX)
    if model is None:
        model = guess(history)
        verdict = _checked(history, model, deadline_s, options)
        note = f"Judged as {model}, since its operations look so."
        return msgspec.structs.replace(verdict, notes=[note, *verdict.notes])
    try:
        return _checked(history, model, deadline_s, options)
    except Invalid as error:
        with suppress(Invalid):
            if error.code == "not_of_the_model" and (perhaps := guess(history)) != model:
                error.facts["perhaps"] = perhaps
        raise


def _checked(history: History, model: str, deadline_s: float, options: dict[str, Any]) -> Verdict:
    if model in MODELS:
        of_model = _OF_MODEL.get(model, set())
        _known(model, options, of_model | {"independent"})
        made = MODELS[model](**{name: value for name, value in options.items() if name in of_model})
        return check_linearizable(history, made, deadline_s=deadline_s, independent=options.get("independent"))
    if model in _TRANSACTIONAL:
        function, known = _TRANSACTIONAL[model]
        _known(model, options, known)
        if "consistency_model" in options:
            options["model"] = options.pop("consistency_model")
        return function(history, deadline_s=deadline_s, **options)
    if model in _SCANS:
        function, known = _SCANS[model]
        _known(model, options, known)
        return function(history, **options)
    raise Invalid("There is no such model.", code="no_such_model", model=model, models=list(NAMES))


def _known(model: str, options: dict[str, Any], known: set[str] | frozenset[str]) -> None:
    if strange := set(options) - known:
        raise Invalid("The model has no such option.", code="no_such_option", model=model, options=sorted(strange))
