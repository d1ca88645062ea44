"""Webhooks: tell other people's servers what your transaction did, signed, retried and logged. See README.md."""

from onefold.messaging.webhooks.client import LOOPS, Dispatcher
from onefold.messaging.webhooks.endpoints import (
    create,
    delete,
    disable,
    enable,
    get,
    list_endpoints,
    list_key_uses,
    rotate,
    update,
)
from onefold.messaging.webhooks.keys import Keys
from onefold.messaging.webhooks.ops import (
    BACKLOG_MAX,
    backlog,
    late,
    latest_attempts,
    list_attempts,
    list_failed,
    list_pending,
    list_range,
    replay,
    replay_failed,
    replay_range,
    send,
    send_message,
    troubles,
)
from onefold.messaging.webhooks.receiving import receive
from onefold.messaging.webhooks.records import Attempt, Backlog, Endpoint, Failed, KeyUse, Late, Pending, Trouble
from onefold.messaging.webhooks.schedule import DISABLED_BY_ITSELF
from onefold.messaging.webhooks.signing import sign, verify
from onefold.messaging.webhooks.tidy import sweep

__all__ = [
    "BACKLOG_MAX",
    "DISABLED_BY_ITSELF",
    "LOOPS",
    "Attempt",
    "Backlog",
    "Dispatcher",
    "Endpoint",
    "Failed",
    "KeyUse",
    "Keys",
    "Late",
    "Pending",
    "Trouble",
    "backlog",
    "create",
    "delete",
    "disable",
    "enable",
    "get",
    "late",
    "latest_attempts",
    "list_attempts",
    "list_endpoints",
    "list_failed",
    "list_key_uses",
    "list_pending",
    "list_range",
    "receive",
    "replay",
    "replay_failed",
    "replay_range",
    "rotate",
    "send",
    "send_message",
    "sign",
    "sweep",
    "troubles",
    "update",
    "verify",
]  # fmt: skip
