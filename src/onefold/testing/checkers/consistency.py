"""Consistency models, which of them imply which, and which anomalies each forbids.

A. Adya: Weak consistency (1999). A. Cerone, G. Bernardi, A. Gotsman: A framework for transactional
consistency models with atomic visibility (2015). P. Bailis et al.: Highly available transactions (2013).
K. Daudjee, K. Salem: Lazy database replication with snapshot isolation (2006).
The map of them: https://jepsen.io/consistency.
"""

from __future__ import annotations

from collections.abc import Iterable

from onefold.core.errors import Invalid

IMPLIES: dict[str, tuple[str, ...]] = {
    "strict-serializable": ("strong-session-serializable", "strong-snapshot-isolation"),
    "strong-session-serializable": ("serializable", "strong-session-snapshot-isolation"),
    "strong-snapshot-isolation": ("strong-session-snapshot-isolation", "strong-read-committed"),
    "strong-session-snapshot-isolation": ("snapshot-isolation", "strong-session-read-committed"),
    "strong-read-committed": ("strong-session-read-committed", "strong-read-uncommitted"),
    "strong-session-read-committed": ("read-committed", "strong-session-read-uncommitted"),
    "strong-read-uncommitted": ("strong-session-read-uncommitted",),
    "strong-session-read-uncommitted": ("read-uncommitted",),
    "serializable": ("repeatable-read", "snapshot-isolation"),
    "snapshot-isolation": ("consistent-view", "parallel-snapshot-isolation"),
    "parallel-snapshot-isolation": ("read-atomic", "update-atomic"),
    "update-atomic": ("read-atomic",),
    "repeatable-read": ("cursor-stability", "monotonic-atomic-view"),
    "consistent-view": ("cursor-stability",),
    "read-atomic": ("monotonic-atomic-view",),
    "monotonic-atomic-view": ("read-committed",),
    "cursor-stability": ("read-committed",),
    "read-committed": ("read-uncommitted",),
    "read-uncommitted": (),
}  # fmt: skip

ALIASES = {
    "strong-serializable": "strict-serializable", "PL-SS": "strict-serializable",
    "strong-session-PL-3": "strong-session-serializable", "PL-3": "serializable", "PL-2.99": "repeatable-read",
    "strong-session-PL-2": "strong-session-read-committed", "strong-PL-2": "strong-read-committed",
    "strong-session-PL-1": "strong-session-read-uncommitted", "strong-PL-1": "strong-read-uncommitted",
    "strong-PL-SI": "strong-snapshot-isolation", "PL-SI": "snapshot-isolation", "SI": "snapshot-isolation",
    "PSI": "parallel-snapshot-isolation", "ROLA": "update-atomic", "PL-2+": "consistent-view",
    "PL-CS": "cursor-stability", "PL-2": "read-committed", "PL-1": "read-uncommitted",
}  # fmt: skip

_ITEM_CYCLES = ("G-single-item", "G-nonadjacent-item", "G2-item")
FORBIDS: dict[str, tuple[str, ...]] = {
    "read-uncommitted": ("G0", "duplicate-elements", "cyclic-versions", "garbage-read"),
    "read-committed": ("G1a", "G1b", "G1c", "dirty-update", "incompatible-order", "future-read"),
    "read-atomic": ("internal",),
    "cursor-stability": ("lost-update",),
    "update-atomic": ("lost-update",),
    "repeatable-read": (*_ITEM_CYCLES, "lost-update"),
    "consistent-view": ("G-single-item",),
    "snapshot-isolation": ("G-nonadjacent-item",),
    "serializable": ("internal",),
    "strong-session-read-uncommitted": ("G0-process",),
    "strong-session-read-committed": ("G1c-process",),
    "strong-session-snapshot-isolation": ("G-single-item-process", "G-nonadjacent-item-process"),
    "strong-session-serializable": ("G2-item-process",),
    "strong-read-uncommitted": ("G0-realtime",),
    "strong-read-committed": ("G1c-realtime",),
    "strong-snapshot-isolation": ("G-single-item-realtime", "G-nonadjacent-item-realtime"),
    "strict-serializable": ("G2-item-realtime",),
}


def named(model: str) -> str:
    """The model of a name, which may be Adya's or Elle's too, and have the colon of a keyword.

    Raises:
        Invalid: it is none.
    """
    name = model.removeprefix(":")
    name = ALIASES.get(name, name)
    if name not in IMPLIES:
        raise Invalid("There is no such consistency model.", code="no_such_model", model=model, models=list(IMPLIES))
    return name


def implied(model: str) -> set[str]:
    """A model and all that are weaker."""
    found = {model}
    for weaker in IMPLIES[model]:
        found |= implied(weaker)
    return found


def ruled_out(anomalies: Iterable[str]) -> set[str]:
    """The models that a history with these anomalies does not satisfy."""
    names = set(anomalies)
    broken = {model for model, forbidden in FORBIDS.items() if names & set(forbidden)}
    return {model for model in IMPLIES if implied(model) & broken}


def weakest(models: set[str]) -> list[str]:
    """Those that none of the others is weaker than."""
    return [model for model in IMPLIES if model in models and not (implied(model) - {model}) & models]


def strongest(models: set[str]) -> list[str]:
    """Those that none of the others is stronger than."""
    return [model for model in IMPLIES if model in models and not any(model in implied(m) for m in models - {model})]
