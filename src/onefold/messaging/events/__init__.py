"""Events: facts in streams, in one order without gaps, handled exactly once. See README.md."""

from onefold.messaging.events.client import Subscriber, wait_for
from onefold.messaging.events.consuming import Consumed, consume, fail_next, retry_parked
from onefold.messaging.events.kinds import kind
from onefold.messaging.events.ops import (
    STREAM_LENGTH_MAX,
    append,
    append_json,
    head,
    position_of,
    read_all,
    read_category,
    read_correlation,
    read_stream,
    version_of,
)
from onefold.messaging.events.records import Appended, Event, NewEvent
from onefold.messaging.events.sequencer import sequence
from onefold.messaging.events.subscriptions import (
    NAME_LENGTH_MAX,
    Parked,
    Retrying,
    Stuck,
    Subscription,
    drop_parked,
    list_parked,
    list_retries,
    list_subscriptions,
    remove_subscription,
    request_retry,
    stuck,
    subscribe,
    subscription_of,
    try_subscription_of,
)

__all__ = [
    "NAME_LENGTH_MAX", "STREAM_LENGTH_MAX",
    "Appended", "Consumed", "Event", "NewEvent", "Parked", "Retrying", "Stuck", "Subscriber", "Subscription", "append",
    "append_json", "consume", "drop_parked", "fail_next", "head", "kind", "list_parked", "list_retries",
    "list_subscriptions", "position_of", "read_all", "read_category", "read_correlation", "read_stream",
    "remove_subscription", "request_retry", "retry_parked", "sequence", "stuck", "subscribe", "subscription_of",
    "try_subscription_of", "version_of", "wait_for",
]  # fmt: skip
