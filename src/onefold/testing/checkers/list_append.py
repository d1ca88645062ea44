"""Elle's list-append: transactions append unique elements to lists and read whole lists.

A list that was read tells the order of all appends before it, so nearly every dependency is known:
K. Kingsbury, P. Alvaro: Elle: Inferring isolation anomalies from experimental observations (VLDB 2020).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from onefold.core.errors import Invalid
from onefold.testing.checkers import consistency
from onefold.testing.checkers.graph import RW, WR, WW, Fan
from onefold.testing.checkers.history import History, show
from onefold.testing.checkers.transactions import Transaction, Transactions, since
from onefold.testing.checkers.verdict import Verdict

List = tuple[Any, ...]


def check_list_append(
    history: History, *, model: str = "strict-serializable", whole: bool = False, deadline_s: float = 60.0
) -> Verdict:
    """Look for anomalies in transactions over lists; say which consistency models they rule out.

    Args:
        model: the verdict is invalid when this one is ruled out; anomalies that it allows are only told.
        whole: the history has every write there was, so that an element which nobody appended is an
            anomaly (`garbage-read`) and not a note.
        deadline_s: for the search of cycles; past it the verdict is unknown, unless it is invalid already.

    Raises:
        Invalid: the model is not known; a value is no list of micro-operations; two transactions that did
            not fail append the same element to the same list.
    """
    model = consistency.named(model)
    return _ListAppend(history).verdict(model, deadline_s, whole=whole)


class _ListAppend:
    def __init__(self, history: History) -> None:
        self.txns = Transactions(history, "append")
        self.findings = self.txns.findings
        self.appended: dict[Any, dict[Any, int]] = {}  # By key: which transaction appended which element.
        self.inner: set[tuple[Any, Any]] = set()  # Appends that the same transaction followed by another.
        self.aborted: dict[tuple[Any, Any], Transaction] = {}
        self.reads: dict[Any, list[tuple[int, List]]] = {}  # By key: all reads.
        self.outer: dict[Any, list[tuple[int, List]]] = {}  # By key: what transactions saw of each other.
        self.updated: dict[tuple[Any, int, Any], list[int]] = {}  # By key and list: who read it and then appended.
        self.garbage = 0
        self.index_writes()
        for n, txn in self.txns.committed():
            self.replay(n, txn)
        self.order: dict[Any, List] = {}
        self.rank: dict[Any, dict[Any, int]] = {}
        for key in self.appended.keys() | self.reads.keys():
            self.order_versions(key)

    def verdict(self, model: str, deadline_s: float, *, whole: bool) -> Verdict:
        for key in self.order:
            self.link_key(key)
        self.lost_updates()
        notes: list[str] = []
        if self.garbage and whole:
            self.findings.add("garbage-read", f"{self.garbage:,} elements were read that nobody appended.", [])
        elif self.garbage:
            notes.append(f"{self.garbage:,} elements were read whose append is not in the history.")
        return self.txns.verdict("list-append", model, deadline_s, self.why, notes)

    def index_writes(self) -> None:
        for txn in self.txns.failed:
            self.aborted.update({(key, value): txn for f, key, value in txn.micros if f == "append"})
        for n, txn in enumerate(self.txns.all):
            last: dict[Any, Any] = {}
            for f, key, value in txn.micros:
                if f != "append":
                    continue
                known = self.appended.setdefault(key, {})
                if value in known:
                    raise Invalid(
                        "An element is appended twice to one list, so that reads cannot tell by whom.",
                        code="not_of_the_model", key=show(key), element=show(value), operation=str(txn.op),
                    )  # fmt: skip
                known[value] = n
                self.aborted.pop((key, value), None)
                if key in last:
                    self.inner.add((key, last[key]))
                last[key] = value

    def replay(self, n: int, txn: Transaction) -> None:
        """What the transaction must have seen of itself, and what it saw of others."""
        own: dict[Any, List] = {}
        known: dict[Any, List] = {}
        for f, key, value in txn.micros:
            mine = own.get(key, ())
            if f == "append":
                if key in known:
                    if not mine:
                        version = (key, len(known[key]), known[key][-1] if known[key] else None)
                        self.updated.setdefault(version, []).append(n)
                    known[key] = (*known[key], value)
                own[key] = (*mine, value)
                continue
            seen: List = () if value is None else value
            if not isinstance(seen, tuple):  # pyright: ignore[reportUnnecessaryIsInstance]  It comes out of a file.
                raise Invalid("A read of a list answered no list.", code="not_of_the_model", operation=str(txn.op))
            if expected := self.expected(known.get(key), mine, seen):
                text = f"It read {show(key)} = {show(seen)}, but by its own doing had to read {expected}."
                self.findings.add("internal", text, [txn.op])
            # A second list that is not its own doing is one of others too, though it had to be the first.
            if (expected or (key not in known and not mine)) and not (seen and seen[-1] in mine):
                self.outer.setdefault(key, []).append((n, seen))
            self.future(txn, key, seen, mine)
            self.reads.setdefault(key, []).append((n, seen))
            known[key] = seen

    @staticmethod
    def expected(known: List | None, mine: List, seen: List) -> str:
        """What a transaction that read or appended before had to read; "" where it did."""
        if known is not None and seen != known:
            return show(known)
        return "" if seen[len(seen) - len(mine) :] == mine else f"[... {show(mine)[1:]}"

    def future(self, txn: Transaction, key: Any, seen: List, mine: List) -> None:
        appends = [value for f, k, value in txn.micros if f == "append" and k == key]
        early = [one for one in appends[len(mine) :] if one in seen]
        if early:
            text = f"It read {show(key)} = {show(seen)} before it appended {show(early[0])} itself."
            self.findings.add("future-read", text, [txn.op])

    def order_versions(self, key: Any) -> None:
        """The order of appends is the longest list that was read; the other reads have to be its beginnings."""
        reads = self.reads.get(key, [])
        whose, longest = max(reads, key=lambda read: len(read[1]), default=(-1, ()))
        by = self.appended.get(key, {})
        clean = len(set(longest)) == len(longest) and not any(
            (key, one) in self.aborted or one not in by for one in longest
        )
        told = False
        for n, seen in reads:
            fits = longest[: len(seen)] == seen
            if not (clean and fits):
                self.elements(n, key, seen)
            if not fits and not told:
                told = True
                text = f"{show(key)} was read as {show(seen)} and as {show(longest)}: neither begins with the other."
                self.findings.add("incompatible-order", text, [self.txns.all[n].op, self.txns.all[whose].op])
        self.garbage += (
            len({one for _, seen in reads for one in seen if one not in by and (key, one) not in self.aborted})
            if not clean or told
            else 0
        )
        self.intermediate(key)
        self.dirty(key, longest)
        self.order[key] = tuple(dict.fromkeys(longest))
        self.rank[key] = {one: place for place, one in enumerate(self.order[key])}

    def elements(self, n: int, key: Any, seen: List) -> None:
        op = self.txns.all[n].op
        if len(set(seen)) < len(seen):
            twice = [one for one, count in Counter(seen).items() if count > 1]
            self.findings.add("duplicate-elements", f"It read {show(twice[0])} several times in {show(key)}.", [op])
        for one in seen:
            writer = self.aborted.get((key, one))
            if writer is not None:
                text = f"It read {show(one)} in {show(key)}, which a failed transaction appended."
                self.findings.add("G1a", text, [op, writer.op])
                return

    def intermediate(self, key: Any) -> None:
        by = self.appended.get(key, {})
        for n, seen in self.outer.get(key, []):
            if seen and (key, seen[-1]) in self.inner and by[seen[-1]] != n:
                text = f"It read {show(key)} up to {show(seen[-1])}, between two appends of one transaction."
                self.findings.add("G1b", text, [self.txns.all[n].op, self.txns.all[by[seen[-1]]].op])

    def dirty(self, key: Any, order: List) -> None:
        """A committed append that stands upon an aborted one."""
        failed: Transaction | None = None
        by = self.appended.get(key, {})
        for one in order:
            failed = self.aborted.get((key, one), failed)
            n = by.get(one, -1)
            if failed and n >= 0 and self.txns.all[n].op.type == "ok":
                text = f"In {show(key)} the append of {show(one)} stands upon one that failed."
                self.findings.add("dirty-update", text, [failed.op, self.txns.all[n].op])
                return

    def link_key(self, key: Any) -> None:
        link, order, by = self.txns.graph.link, self.order[key], self.appended.get(key, {})
        writers = [by.get(one) for one in order]
        following: list[int | None] = [None] * (len(order) + 1)  # By number of elements read: whose append is next.
        last: int | None = None
        for writer in writers:
            if writer is not None:
                if last is not None:
                    link(last, writer, WW)
                last = writer
        for place in range(len(order) - 1, -1, -1):
            following[place] = following[place + 1] if writers[place] is None else writers[place]
        # Appends that nobody read come after all that were read, in an unknown order.
        unread = Fan(self.txns.graph, list(dict.fromkeys(n for one, n in by.items() if one not in self.rank[key])))
        if last is not None:
            unread.link(last, WW)
        for n, seen in self.outer.get(key, []):
            if seen and seen[-1] in by:
                link(by[seen[-1]], n, WR)
            place = self.rank[key].get(seen[-1]) if seen else -1
            if place is None:
                continue
            after = following[place + 1]
            if after is None:
                unread.link(n, RW)
            else:
                link(n, after, RW)

    def lost_updates(self) -> None:
        for (key, *_), both in self.updated.items():
            if len(both) > 1:
                text = f"All of them read the same {show(key)}, then appended to it."
                self.findings.add("lost-update", text, [self.txns.all[n].op for n in both[:8]])

    def why(self, a: int, kind: int, b: int) -> str:
        """Why transaction a comes before b."""
        before, after = self.txns.all[a], self.txns.all[b]
        if said := since(kind, before.op, after.op):
            return said
        for f, key, value in before.micros:
            rank = self.rank.get(key, {})
            theirs = [one for g, k, one in after.micros if g == "append" and k == key]
            if kind == RW and f == "r" and theirs:
                seen = rank.get(value[-1], len(rank)) if value else -1
                if later := [one for one in theirs if rank.get(one, len(rank)) > seen and one not in (value or ())]:
                    return f"it read {show(key)} = {show(value or ())}, without {show(later[0])} of #{after.op.index}"
            if kind == WR and f == "append":
                for g, k, seen in after.micros:
                    if g == "r" and k == key and seen and value in seen:
                        return f"#{after.op.index} read {show(key)} with its {show(value)}"
            if kind == WW and f == "append":
                mine = rank.get(value, len(rank) + 1)
                later = [one for one in theirs if rank.get(one, len(rank)) > mine]
                if later:
                    return f"#{after.op.index} appended {show(later[0])} to {show(key)} after its {show(value)}"
        return f"#{after.op.index} depends on it"
