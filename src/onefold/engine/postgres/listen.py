"""Wake-ups between processes: after the commit, beside it, never in it.

NOTIFY inside the transactions took 37 % of their rate (it is one global lock at commit). So one
thread tells the others, a few milliseconds' worth of topics at a time, and one thread listens.
Both have a connection of their own; both lose hints when the server is away, and whoever waits
polls as well.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable

from onefold.core.errors import OnefoldError
from onefold.engine.postgres.codec import plan_of
from onefold.engine.postgres.pool import Pool
from onefold.engine.postgres.wire import Wire
from onefold.engine.wake import Hub

_log = logging.getLogger("onefold.wake")

COALESCE_S = 0.002
PAYLOAD_BYTES_MAX = 7_900  # PostgreSQL takes 7,999.
ANSWER_NS_MAX = 5_000_000_000
CHECK_S = 30.0  # A connection that died silently is noticed after this.
PAUSE_S_FIRST, PAUSE_S_MAX = 0.05, 2.0  # Between attempts to connect.
START_S = 0.25  # How long the first waiter waits for the connection that listens.
TOPICS_MAX = 10_000  # Waiting to be told; beyond it the others are told to look at everything.

EVERYTHING = "*"
NOTIFY = "SELECT pg_notify('onefold', :payload)"


class Notifier:
    """Tells other processes which topics to look at."""

    def __init__(self, pool: Pool, instance: str) -> None:
        self._pool = pool
        self._instance = instance
        self._topics: dict[str, None] = {}
        self._lock = threading.Lock()
        self._ring = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._wire: Wire | None = None

    def tell(self, topics: Iterable[str]) -> None:
        """Queue topics; answers at once."""
        with self._lock:
            if len(self._topics) > TOPICS_MAX:
                self._topics = {EVERYTHING: None}
            self._topics.update(dict.fromkeys(topics))
            if self._thread is None and not self._closing:
                thread = threading.Thread(target=self._loop, name="onefold-notify", daemon=True)
                thread.start()  # Where there is no thread to be had, the next commit asks again.
                self._thread = thread
        self._ring.set()

    def close(self) -> None:
        """Tell what is queued, then stop."""
        with self._lock:
            self._closing = True
        self._ring.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=ANSWER_NS_MAX / 1e9)

    def _loop(self) -> None:
        while True:
            self._ring.wait()
            self._ring.clear()
            if not self._closing:
                time.sleep(COALESCE_S)
            with self._lock:
                topics, self._topics = self._topics, {}
            payloads = payloads_of(self._instance, topics)
            # A connection that broke while idle is found out by using it; then a fresh one may do.
            if payloads and not self._sent(payloads):
                self._sent(payloads)
            if self._closing and not self._topics:
                if self._wire is not None:
                    self._wire.close()
                return

    def _sent(self, payloads: list[str]) -> bool:
        try:
            self._send(payloads)
        except OnefoldError as error:
            _log.info("a wake-up was not told to other processes: %s", error)
            if self._wire is not None:
                self._wire.close()
                self._wire = None
            return False
        return True

    def _send(self, payloads: list[str]) -> None:
        give_up_ns = time.monotonic_ns() + ANSWER_NS_MAX
        wire = self._wire
        if wire is None:
            wire = self._wire = self._pool.connect(give_up_ns)
        wire.deadline_ns = give_up_ns
        plan = plan_of(NOTIFY)
        for payload in payloads:
            wire.execute(plan, *plan.encode({"payload": payload}))
        wire.sync()


class Listener:
    """Hears which topics other processes woke. Started by the first waiter."""

    def __init__(self, pool: Pool, hub: Hub, instance: str) -> None:
        self._pool = pool
        self._hub = hub
        self._instance = instance
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._doorbell: tuple[int, int] | None = None
        self._deaf = False  # Something may have been said while nobody listened.
        #: Set while the server tells us.
        self.listening = threading.Event()

    def start(self) -> None:
        """Begin to listen; answers when it has begun, or soon after in any case."""
        if self.listening.is_set() or self._deaf or self._closing:
            return
        with self._lock:
            if self._thread is None and not self._closing:
                self._doorbell = self._doorbell or os.pipe()
                thread = threading.Thread(
                    target=self._loop, args=self._doorbell[:1], name="onefold-listen", daemon=True
                )
                thread.start()  # Where there is no thread to be had, the next waiter asks again.
                self._thread = thread
        if not self.listening.wait(START_S):
            self._deaf = True
            if self.listening.is_set():
                self._hub.wake_all()

    def close(self) -> None:
        """Stop. Closing twice does nothing."""
        with self._lock:
            self._closing = True
            doorbell, self._doorbell = self._doorbell, None
        if doorbell is None:
            return
        os.write(doorbell[1], b"x")
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=ANSWER_NS_MAX / 1e9)
        for descriptor in doorbell:
            os.close(descriptor)

    def _loop(self, doorbell: int) -> None:
        pause_s = PAUSE_S_FIRST
        while not self._closing:
            try:
                self._listen(doorbell)
                pause_s = PAUSE_S_FIRST
            except OnefoldError as error:
                if not self._closing:
                    _log.info("listening for wake-ups broke off: %s", error)
            self.listening.clear()
            self._deaf = True
            if not self._closing:
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_S_MAX)

    def _listen(self, doorbell: int) -> None:
        wire = self._pool.connect(time.monotonic_ns() + ANSWER_NS_MAX)
        try:
            wire.command(b"LISTEN onefold")
            wire.sync()
            self.listening.set()
            if self._deaf:
                self._hub.wake_all()
            while not self._closing:
                payloads = wire.notifications(doorbell, CHECK_S)
                for payload in payloads:
                    self._heard(payload)
                if not payloads and not self._closing:  # Silence: does anybody speak there?
                    wire.deadline_ns = time.monotonic_ns() + ANSWER_NS_MAX
                    wire.read_clock()
        finally:
            wire.close()

    def _heard(self, payload: str) -> None:
        instance, *topics = payload.split("\n")
        if instance == self._instance:
            return
        if EVERYTHING in topics:
            self._hub.wake_all()
        else:
            self._hub.wake(topics)


def new_instance() -> str:
    """How a process is told from others on the channel."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def payloads_of(instance: str, topics: Iterable[str]) -> list[str]:
    """Topics packed into as few notifications as hold them."""
    payloads: list[str] = []
    parts, size = [instance], len(instance)
    for topic in topics:
        bytes_ = 0
        with contextlib.suppress(UnicodeEncodeError):
            bytes_ = len(topic.encode())
        if not bytes_ or bytes_ > PAYLOAD_BYTES_MAX // 2 or "\n" in topic or "\0" in topic:
            return [f"{instance}\n{EVERYTHING}"]  # It has no form on the channel.
        if size + bytes_ + 1 > PAYLOAD_BYTES_MAX:
            payloads.append("\n".join(parts))
            parts, size = [instance], len(instance)
        parts.append(topic)
        size += bytes_ + 1
    if len(parts) > 1:
        payloads.append("\n".join(parts))
    return payloads
