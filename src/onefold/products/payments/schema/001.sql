-- Payments: what a provider outside was asked, and what came of it. The row of the intent decides: each
-- transition locks it first, and moves the money in the ledger in the same transaction.

-- Payment intents. INVARIANTS: the id is the key under which the provider is asked, and there is never a
-- second one; `asked` is what the provider still has to answer, and a job of kind "payments.settle" waits or
-- runs as long as it is not NULL; refunded + refunding <= captured. `late` came when nobody wanted it any
-- more and is refunded. Nothing that changes is in an index, so that PostgreSQL need not touch the key's pages: an
-- index by state made three attempts in four conflict. RETENTION: kept for good, as the ledger's transfers name them.
CREATE TABLE onefold.payment_intents (
    space          INTEGER NOT NULL,
    id             TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 100),
    provider       TEXT    NOT NULL CHECK (length(provider) BETWEEN 1 AND 40),
    payee          TEXT    NOT NULL CHECK (length(payee) BETWEEN 1 AND 180),
    currency       TEXT    NOT NULL CHECK (length(currency) = 3),
    amount         INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 1000000000000),
    reference      TEXT    NOT NULL CHECK (length(reference) <= 200),
    automatic      BOOLEAN NOT NULL,
    created_at_ms  INTEGER NOT NULL,
    expires_at_ms  INTEGER NOT NULL,
    state          TEXT    NOT NULL CHECK (state IN ('requires_payment', 'processing', 'unknown', 'authorised',
        'captured', 'partially_refunded', 'refunded', 'canceled', 'failed', 'disputed')),
    method         TEXT    NOT NULL CHECK (length(method) <= 200),
    asked          TEXT    CHECK (asked IN ('authorise', 'capture', 'cancel')),
    asks           INTEGER NOT NULL CHECK (asks >= 0), -- How often no answer came.
    to_capture     INTEGER NOT NULL CHECK (to_capture BETWEEN 0 AND amount),
    captured       INTEGER NOT NULL CHECK (captured BETWEEN 0 AND amount),
    refunding      INTEGER NOT NULL CHECK (refunding >= 0),
    refunded       INTEGER NOT NULL CHECK (refunded >= 0),
    late           INTEGER NOT NULL CHECK (late BETWEEN 0 AND amount),
    disputed       INTEGER NOT NULL CHECK (disputed >= 0),
    dispute        TEXT    CHECK (dispute IN ('open', 'won', 'lost')),
    reason         TEXT    NOT NULL CHECK (length(reason) <= 200),
    changed_at_ms  INTEGER NOT NULL,
    PRIMARY KEY (space, id),
    CHECK (refunded + refunding <= captured),
    CHECK (captured = 0 OR late = 0)
) {table:hot};

-- Refunds, the automatic ones too: those give back what came late. INVARIANT: the id is the provider's key.
-- RETENTION: kept for good, with the intents.
CREATE TABLE onefold.payment_refunds (
    space         INTEGER NOT NULL,
    id            TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 120),
    intent_id     TEXT    NOT NULL,
    amount        INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 1000000000000),
    automatic     BOOLEAN NOT NULL,
    state         TEXT    NOT NULL CHECK (state IN ('pending', 'succeeded', 'failed')),
    asks          INTEGER NOT NULL CHECK (asks >= 0),
    reason        TEXT    NOT NULL CHECK (length(reason) <= 200),
    created_at_ms INTEGER NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, id)
) {table:hot};
CREATE INDEX onefold_payment_refunds_intent ON onefold.payment_refunds (space, intent_id, id);

-- Callbacks that were received, so that one that comes again is known. Nothing rests on it: a callback only
-- makes us ask. RETENTION: 35 days, then swept by the loop "payments.sweep".
CREATE TABLE onefold.payment_callbacks (
    space         INTEGER NOT NULL,
    provider      TEXT    NOT NULL,
    event_id      TEXT    NOT NULL CHECK (length(event_id) BETWEEN 1 AND 200),
    intent_id     TEXT    NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, provider, event_id)
) {table:clustered};
-- For the sweep, which works on all spaces at once.
-- all spaces
CREATE INDEX onefold_payment_callbacks_expires ON onefold.payment_callbacks (expires_at_ms);
