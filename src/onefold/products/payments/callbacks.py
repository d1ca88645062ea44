"""Callbacks in: a provider tells that something happened, twice, late, or in another order.

So a callback is a reason to ask, never an answer: what it says is compared with the row, and when it may be
news a job asks the provider where the charge stands now.
"""

from __future__ import annotations

from onefold.core.errors import Invalid, NotFound
from onefold.engine.tx import Tx, operation
from onefold.messaging import jobs
from onefold.products.payments import rows
from onefold.products.payments.provider import Callback
from onefold.products.payments.records import Settle, check_id, check_provider
from onefold.products.payments.settling import is_news

EVENT_ID_LENGTH_MAX = 200
KEEP_MS = 35 * 86_400_000  # Longer than providers go on telling; a later one makes us ask, once more.
SWEEP_ROWS = 200  # Their ids lie on a page each; more would hold SQLite's writer for long.


@operation
def receive(tx: Tx, provider: str, callback: Callback) -> bool:
    """Take a verified callback; False when this very one came before.

    Args:
        provider: who sent it; `Provider.callback` has verified it.
        callback: what it says.

    Raises:
        Invalid: an argument is out of range.
        NotFound: the intent is not of this space and provider.
    """
    check_provider(provider)
    check_id(callback.charge.key)
    if not 1 <= len(callback.event_id) <= EVENT_ID_LENGTH_MAX:
        raise Invalid("The id of a callback has 1 to 200 characters.", code="event_id", length=len(callback.event_id))
    fresh = tx.one(
        """INSERT INTO onefold.payment_callbacks (space, provider, event_id, intent_id, expires_at_ms)
           VALUES (:space, :provider, :event_id, :intent_id, :expires_at_ms)
           ON CONFLICT (space, provider, event_id) DO NOTHING RETURNING event_id""",
        provider=provider, event_id=callback.event_id, intent_id=callback.charge.key,
        expires_at_ms=tx.now_ms + KEEP_MS,
    )  # fmt: skip
    if fresh is None:
        return False
    intent = rows.find(tx, callback.charge.key)
    if intent is None or intent.provider != provider:
        raise NotFound("There is no such intent.", code="intent", id=callback.charge.key)
    if is_news(intent, callback.charge):
        jobs.put(tx, Settle(intent.id, look=True))
    return True


@operation
def sweep(tx: Tx) -> bool:
    """Forget up to 200 callbacks past their time, of all spaces; True when there may be more."""
    gone = tx.all(
        """DELETE FROM onefold.payment_callbacks -- all spaces
            WHERE (provider, event_id, space) IN (
                SELECT provider, event_id, space FROM onefold.payment_callbacks WHERE expires_at_ms <= :now_ms
                 ORDER BY expires_at_ms LIMIT :rows {for_update} {skip_locked})
        RETURNING space""",
        rows=SWEEP_ROWS,
    )  # fmt: skip
    return len(gone) == SWEEP_ROWS
