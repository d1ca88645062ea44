"""The first writer of a space, however slow, holds up nobody else in it."""

from __future__ import annotations

import threading

import onefold
from onefold import Tx


def test_a_slow_first_writer_of_a_space_holds_up_nobody(postgres_url: str) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        tx.add("slow", 1)
        tx.total("slow")  # Has an answer, so that the write has reached the server.
        entered.set()
        assert leave.wait(20)

    with onefold.connect(postgres_url) as one, onefold.connect(postgres_url) as two:
        thread = threading.Thread(target=one.at("new").run, args=(slow,))
        thread.start()
        assert entered.wait(20)
        two.at("new").options(deadline_ms=2_000).run(lambda tx: tx.add("quick", 1))
        assert two.at("new").run(lambda tx: tx.total("quick")) == 1
        leave.set()
        thread.join()
