"""Elle's rw-register: transactions write unique values to registers and read them.

A read tells who wrote what it saw, but not what was there before; so versions are ordered only as far as
something says: the initial nil comes before all, and what the caller grants in `assume`.
K. Kingsbury, P. Alvaro: Elle: Inferring isolation anomalies from experimental observations (VLDB 2020).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from onefold.core.errors import Invalid
from onefold.testing.checkers import consistency
from onefold.testing.checkers.cycles import find_cycles
from onefold.testing.checkers.graph import REALTIME, RW, WR, WW, Fan, components
from onefold.testing.checkers.history import History, show
from onefold.testing.checkers.transactions import Transaction, Transactions, since
from onefold.testing.checkers.verdict import Findings, Verdict

ASSUMPTIONS = ("wfr-keys", "sequential-keys", "linearizable-keys")
PROMISES = {"strict-serializable": "linearizable-keys", "strong-session-serializable": "sequential-keys"}
Edges = set[tuple[Any, Any]]


def check_rw_register(
    history: History,
    *,
    model: str = "strict-serializable",
    assume: Collection[str] = (),
    whole: bool = False,
    deadline_s: float = 60.0,
) -> Verdict:
    """Look for anomalies in transactions over registers; say which consistency models they rule out.

    Args:
        model: the verdict is invalid when this one is ruled out; anomalies that it allows are only told.
        assume: what orders the versions of each single key: `wfr-keys` (a transaction that read one and
            wrote one wrote the later), `sequential-keys` (each process sees them in order),
            `linearizable-keys` (real time does). A system that does not promise it gets a wrong verdict.
        whole: the history has every write there was, so that a value that nobody wrote is an anomaly
            (`garbage-read`) and not a note.
        deadline_s: for the search of cycles; past it the verdict is unknown, unless it is invalid already.

    Raises:
        Invalid: the model or an assumption is not known; a value is no list of micro-operations.
    """
    model = consistency.named(model)
    if unknown := set(assume) - set(ASSUMPTIONS):
        raise Invalid("There is no such assumption.", code="no_such_assumption", unknown=sorted(unknown))
    return _RwRegister(history).verdict(model, deadline_s, set(assume), whole=whole)


class _RwRegister:
    def __init__(self, history: History) -> None:
        self.txns = Transactions(history, "w")
        self.findings = self.txns.findings
        self.aborted: dict[tuple[Any, Any], Transaction] = {}
        self.inner: dict[tuple[Any, Any], int] = {}
        self.writes: list[dict[Any, Any]] = []  # By transaction: the last value that it wrote to each key.
        self.reads: list[dict[Any, Any]] = []  # By transaction: what it first saw of others.
        self.updated: dict[tuple[Any, Any], list[int]] = {}  # Who read a value and then wrote.
        self.wavering: list[tuple[int, list[tuple[Any, Any]]]] = []  # Who saw several values of one key, of others.
        self.writers: dict[tuple[Any, Any], list[int]] = {}
        self.readers: dict[tuple[Any, Any], list[int]] = {}
        for txn in self.txns.failed:
            self.aborted.update({(key, value): txn for f, key, value in txn.micros if f == "w"})
        for n, txn in enumerate(self.txns.all):
            self.replay(n, txn)

    def replay(self, n: int, txn: Transaction) -> None:
        """What the transaction must have seen of itself, what it saw of others, and what it left."""
        known: dict[Any, Any] = {}
        wrote: dict[Any, Any] = {}
        read: dict[Any, Any] = {}
        seen: dict[tuple[Any, Any], None] = {}
        for f, key, value in txn.micros:
            if f == "w":
                if key in wrote:
                    self.inner[key, wrote[key]] = n
                elif key in known:
                    self.updated.setdefault((key, known[key]), []).append(n)
                wrote[key] = value
            elif txn.op.type != "ok":
                continue
            elif key not in known:
                read[key] = value
                seen[key, value] = None
            elif known[key] != value:
                text = f"It read {show(key)} = {show(value)}, but by its own doing had to read {show(known[key])}."
                self.findings.add("internal", text, [txn.op])
                if wrote.get(key, self) != value and self.inner.get((key, value)) != n:
                    seen[key, value] = None
            known[key] = value
        self.writes.append(wrote)
        self.reads.append(read)
        for item in wrote.items():
            self.writers.setdefault(item, []).append(n)
        for item in seen:
            self.readers.setdefault(item, []).append(n)
        if len(seen) > len({key for key, _ in seen}):
            self.wavering.append((n, list(seen)))

    def verdict(self, model: str, deadline_s: float, assume: set[str], *, whole: bool) -> Verdict:
        self.dirty_reads(whole=whole)
        self.lost_updates()
        self.fuzzy_reads()
        self.link_reads()
        self.link_initial()
        for key, edges in self.versions(assume).items():
            self.link_versions(key, edges)
        ambiguous = sum(len(set(ns)) > 1 for ns in self.writers.values())
        notes = (
            [f"{ambiguous:,} values were written more than once; what read them is not linked."] if ambiguous else []
        )
        until_s = time.monotonic() + deadline_s
        verdict = self.txns.verdict("rw-register", model, deadline_s, self.why, notes)
        promise = PROMISES.get(model)
        if verdict.valid is not False and promise and promise not in assume and self.broken(promise, until_s):
            note = f"It is invalid with --assume {promise}, which {model} promises and no read shows."
            verdict = msgspec.structs.replace(verdict, notes=[*notes, note])
        return verdict

    def broken(self, promise: str, until_s: float) -> bool:
        """Whether an assumption leads to more; after the verdict, for it is left out of that."""
        self.findings = Findings()
        for key, edges in self.versions({promise}).items():
            self.link_versions(key, edges)
        cycles, _ = find_cycles(self.txns.graph, until_s)
        beyond = REALTIME if promise == "sequential-keys" else 0  # What real time adds speaks against another model.
        return bool(self.findings.counts) or any(all(kind != beyond for _, kind, _ in cycle) for _, cycle in cycles)

    def op(self, n: int) -> Any:
        return self.txns.all[n].op

    def dirty_reads(self, *, whole: bool) -> None:
        for (key, value), readers in self.readers.items():
            if value is None or (key, value) in self.writers:
                continue
            ops = [self.op(n) for n in readers[:4]]
            seen = f"read {show(key)} = {show(value)}"
            if (key, value) in self.inner:
                writer = self.inner[key, value]
                if set(readers) != {writer}:
                    text = f"They {seen}, which its transaction overwrote before it ended."
                    self.findings.add("G1b", text, [*ops, self.op(writer)])
            elif (key, value) in self.aborted:
                self.findings.add("G1a", f"They {seen}, of a failed transaction.", [*ops, self.aborted[key, value].op])
            elif whole:
                self.findings.add("garbage-read", f"They {seen}, which nobody wrote.", ops)

    def lost_updates(self) -> None:
        for (key, value), both in self.updated.items():
            if len(both) > 1 and len(set(self.writers.get((key, value), ()))) <= 1:
                text = f"All of them read {show(key)} = {show(value)}, then wrote it."
                self.findings.add("lost-update", text, [self.op(n) for n in both[:8]])

    def fuzzy_reads(self) -> None:
        """Of two versions by others one is the later: who read both came before its transaction and after it."""
        for n, seen in self.wavering:
            by_key: dict[Any, set[int]] = {}
            for key, value in seen:
                writer = None if value is None else self.writer(key, value)  # The graph knows what nil is before.
                if writer not in (None, n):
                    by_key.setdefault(key, set()).add(writer)
            for key, writers in by_key.items():
                if len(writers) > 1:
                    values = " and as ".join(show(value) for k, value in seen if k == key)
                    text = f"It read {show(key)} as {values}, before whoever wrote the later one and after him."
                    self.findings.add("G-single-item", text, [self.op(n), *map(self.op, sorted(writers))])

    def writer(self, key: Any, value: Any) -> int | None:
        """Who wrote a value last; None when nobody or several did."""
        found = self.writers.get((key, value), ())
        return found[0] if len(found) == 1 else None

    def link_reads(self) -> None:
        for (key, value), readers in self.readers.items():
            writer = None if value is None else self.writer(key, value)
            if writer is not None:
                for n in readers:
                    self.txns.graph.link(writer, n, WR)

    def link_initial(self) -> None:
        """Who read nil came before all who wrote."""
        targets: dict[Any, list[int]] = {}
        for (key, value), writers in self.writers.items():
            if value is not None and (key, None) in self.readers:
                targets.setdefault(key, []).extend(writers)
        for key, writers in targets.items():
            fan = Fan(self.txns.graph, list(dict.fromkeys(writers)))
            for n in self.readers[key, None]:
                fan.link(n, RW)

    def versions(self, assume: set[str]) -> dict[Any, Edges]:
        """By key, pairs of an earlier and a later version.

        Keys whose versions go in circles are told and left out; so are, silently, those with a value that was
        written twice, or with a nil: two versions look alike.
        """
        found: dict[Any, Edges] = {}
        pairs: list[Iterable[tuple[Any, Any, Any]]] = []
        if "wfr-keys" in assume:
            pairs.append(
                (k, v, self.writes[n][k])
                for n, read in enumerate(self.reads)
                for k, v in read.items()
                if k in self.writes[n]
            )
        if "sequential-keys" in assume:
            pairs.append(self.sequential())
        if "linearizable-keys" in assume:
            pairs.append(self.linearizable())
        for source in pairs:
            for key, earlier, later in source:
                if earlier != later:
                    found.setdefault(key, set()).add((earlier, later))
        twice = self.twice() if found else set[Any]()
        return {key: edges for key, edges in found.items() if key not in twice and not self.circular(key, edges)}

    def twice(self) -> set[Any]:
        """The keys of which two versions look alike."""
        written = Counter(
            (key, value) for txn in (*self.txns.all, *self.txns.failed) for f, key, value in txn.micros if f == "w"
        )
        return {key for (key, value), count in written.items() if count > 1 or value is None}

    def circular(self, key: Any, edges: Edges) -> bool:
        following: dict[Any, list[Any]] = {}
        for earlier, later in edges:
            following.setdefault(earlier, []).append(later)
        circles = components(list(following), lambda one: following.get(one, ()))
        back = [earlier for earlier, later in edges if later is None]
        for circle in circles or ([[None, *back]] if back else []):
            values = sorted(show(one) for one in circle)
            ops = [self.op(n) for one in circle[:4] for n in self.writers.get((key, one), [])[:1]]
            text = f"Of {show(key)} each of these versions comes before each: {', '.join(values[:8])}."
            self.findings.add("cyclic-versions", text, ops)
        return bool(circles or back)

    def touched(self, n: int) -> Iterable[tuple[Any, Any, Any]]:
        """By key, the first and the last version that a transaction had to do with."""
        read, wrote = self.reads[n], self.writes[n]
        for key in read.keys() | wrote.keys():
            yield key, read.get(key, wrote.get(key)), wrote.get(key, read.get(key))

    def sequential(self) -> Iterable[tuple[Any, Any, Any]]:
        last: dict[tuple[Any, Any], Any] = {}
        for n, txn in self.txns.committed():
            for key, first, final in self.touched(n):
                at = (txn.op.process, key)
                if at in last:
                    yield key, last[at], first
                last[at] = final

    def linearizable(self) -> Iterable[tuple[Any, Any, Any]]:
        """Of each key: before each transaction stand those that ended before it, and before no other such."""
        by_key: dict[Any, list[tuple[int, int, Any, Any]]] = {}
        for n, txn in self.txns.committed():
            for key, first, final in self.touched(n):
                by_key.setdefault(key, []).append((txn.op.invoked, txn.op.completed, first, final))
        for key, spans in by_key.items():
            events = sorted([(s[0], 0, i) for i, s in enumerate(spans)] + [(s[1], 1, i) for i, s in enumerate(spans)])
            front: list[int] = []
            for _, is_end, i in events:
                if is_end:
                    front = [one for one in front if spans[one][1] > spans[i][0]] + [i]
                else:
                    for one in front:
                        yield key, spans[one][3], spans[i][2]

    def link_versions(self, key: Any, edges: Edges) -> None:
        for earlier, later in edges:
            after = self.writer(key, later)
            if after is None:
                continue
            before = None if earlier is None else self.writer(key, earlier)
            if before is not None:
                self.txns.graph.link(before, after, WW)
            for n in self.readers.get((key, earlier), ()):
                self.txns.graph.link(n, after, RW)

    def why(self, a: int, kind: int, b: int) -> str:
        """Why transaction a comes before b."""
        after = self.op(b)
        if said := since(kind, self.op(a), after):
            return said
        if kind == WR:
            for key, value in self.writes[a].items():
                if self.reads[b].get(key, self) == value:
                    return f"#{after.index} read its {show(key)} = {show(value)}"
        source = self.reads[a] if kind == RW else self.writes[a]
        for key, value in source.items():
            if key in self.writes[b]:
                verb = "read" if kind == RW else "wrote"
                return f"it {verb} {show(key)} = {show(value)}, before #{after.index} wrote {show(self.writes[b][key])}"
        return f"#{after.index} depends on it"
