"""What the crowd saw, counted while it happens."""

from __future__ import annotations

import sys
import time
from collections import Counter

from examples.boxoffice.crowd.http import Answer

SURPRISES_SHOWN = 5


class Tally:
    """Counts, times per step, and what should not have happened."""

    def __init__(self, buyers: int, *, quiet: bool = False) -> None:
        self.buyers = buyers
        self.counts: Counter[str] = Counter()
        self.doubled: list[str] = []
        self.surprises: list[str] = []
        self.home = 0
        self._quiet = quiet
        self._times: dict[str, list[float]] = {}
        self._started = time.monotonic()
        self._told_at = self._started
        self._told = (0, 0)

    @property
    def seconds(self) -> float:
        """Since the crowd set out."""
        return time.monotonic() - self._started

    def count(self, what: str) -> None:
        """One more of `what`."""
        self.counts[what] += 1

    def took(self, step: str, seconds: float) -> None:
        """One answer came after `seconds`."""
        self._times.setdefault(step, []).append(seconds)

    def surprise(self, step: str, answer: Answer) -> None:
        """An answer that no buyer should get."""
        self.surprises.append(f"{step}: {answer.status} {answer.body[:300].decode(errors='replace')}")

    def came_home(self) -> None:
        """A buyer is done; say how it goes, every two seconds."""
        self.home += 1
        now = time.monotonic()
        if self._quiet or (now - self._told_at < 2 and self.home < self.buyers):
            return
        requests = sum(map(len, self._times.values()))
        elapsed = now - self._told_at
        rate = (requests - self._told[0]) / elapsed
        orders = (self.counts["bought"] - self._told[1]) / elapsed
        self._told_at, self._told = now, (requests, self.counts["bought"])
        print(
            f"  {self.home:>6,} of {self.buyers:,} buyers done, {self.counts['bought']:,} orders, "
            f"{rate:,.0f} requests/s, {orders:,.0f} orders/s",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    def report(self) -> str:
        """Counts and times as a table."""
        lines = [f"{self.buyers:,} buyers in {self.seconds:.1f} s"]
        lines += [f"  {what:<32} {count:>8,}" for what, count in sorted(self.counts.items())]
        lines.append(f"  {'step':<10} {'answers':>9} {'p50 ms':>9} {'p99 ms':>9} {'most ms':>9}")
        for step, times in sorted(self._times.items()):
            ordered = sorted(times)
            p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
            lines.append(
                f"  {step:<10} {len(ordered):>9,} {p50 * 1e3:>9.1f} {p99 * 1e3:>9.1f} {ordered[-1] * 1e3:>9.1f}"
            )
        lines += [f"  surprise: {text}" for text in self.surprises[:SURPRISES_SHOWN]]
        if len(self.surprises) > SURPRISES_SHOWN:
            lines.append(f"  and {len(self.surprises) - SURPRISES_SHOWN:,} more surprises")
        return "\n".join(lines)
