-- Who is told: a URL, which types of messages it wants, and which key signs for it. No secret stands
-- here: secrets are derived from the key file by key, space, id and generation.
-- RETENTION: lives until `delete`.
CREATE TABLE onefold.webhook_endpoints (
    space             INTEGER NOT NULL,
    id                TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    url               TEXT    NOT NULL CHECK (length(url) BETWEEN 8 AND 2000),
    types             TEXT    NOT NULL CHECK (length(types) <= 8192), -- A JSON array; empty: all.
    headers           TEXT    NOT NULL CHECK (length(headers) <= 8192), -- A JSON object.
    concurrency       INTEGER NOT NULL CHECK (concurrency BETWEEN 1 AND 100),
    per_second        INTEGER NOT NULL CHECK (per_second BETWEEN 0 AND 10000), -- 0: no limit.
    key_id            TEXT    NOT NULL CHECK (length(key_id) BETWEEN 1 AND 40),
    generation        INTEGER NOT NULL CHECK (generation >= 1),
    old_key_id        TEXT    CHECK (length(old_key_id) BETWEEN 1 AND 40), -- The secret before, which signs too ...
    old_until_ms      INTEGER, -- ... until then.
    created_at_ms     INTEGER NOT NULL,
    failing_since_ms  INTEGER, -- NULL: the last attempt that was noted went well, or there was none.
    disabled_at_ms    INTEGER, -- NULL: enabled.
    disabled_why      TEXT    CHECK (length(disabled_why) <= 200),
    PRIMARY KEY (space, id)
) {table:clustered,hot};

-- What was sent: the body as it goes out, byte for byte, once for all endpoints.
-- RETENTION: swept 30 days after it was sent.
CREATE TABLE onefold.webhook_messages (
    space         INTEGER NOT NULL,
    id            TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    type          TEXT    NOT NULL CHECK (length(type) BETWEEN 1 AND 100),
    body          TEXT    NOT NULL, -- JSON, at most 64 KiB.
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, id)
) {table};
CREATE INDEX onefold_webhook_messages_created ON onefold.webhook_messages (space, created_at_ms, id);
-- all spaces: swept by age.
CREATE INDEX onefold_webhook_messages_age ON onefold.webhook_messages (created_at_ms);

-- What is still to be delivered, a row per message and endpoint, written with the message. Invariant: it is
-- deleted or put off only by whoever holds the endpoint's lane, in the transaction that logs the attempt.
-- RETENTION: deleted when delivered or given up, removed with the endpoint, swept after 30 days.
CREATE TABLE onefold.webhook_pending (
    space       INTEGER NOT NULL,
    endpoint_id TEXT    NOT NULL CHECK (length(endpoint_id) BETWEEN 1 AND 60),
    message_id  TEXT    NOT NULL CHECK (length(message_id) BETWEEN 1 AND 60),
    at_ms       INTEGER NOT NULL, -- Not before.
    attempt     INTEGER NOT NULL CHECK (attempt >= 1), -- Number of the next one; grows over replays.
    failures    INTEGER NOT NULL CHECK (failures >= 0), -- Since it was sent or replayed.
    put_at_ms   INTEGER NOT NULL,
    PRIMARY KEY (space, endpoint_id, message_id)
) {table:clustered};
-- all spaces: from here the dispatcher goes from endpoint to endpoint, and takes what is due of each.
CREATE INDEX onefold_webhook_pending_due ON onefold.webhook_pending (endpoint_id, at_ms, message_id);
-- all spaces: swept by age.
CREATE INDEX onefold_webhook_pending_age ON onefold.webhook_pending (put_at_ms);

-- Who delivers to an endpoint: one dispatcher at a time, numbered. Invariant: an attempt counts only in a
-- transaction that holds this row FOR SHARE with the number that the attempt was made under.
-- RETENTION: deleted with the endpoint.
CREATE TABLE onefold.webhook_lanes (
    space         INTEGER NOT NULL,
    endpoint_id   TEXT    NOT NULL CHECK (length(endpoint_id) BETWEEN 1 AND 60),
    owner         TEXT    NOT NULL CHECK (length(owner) <= 200), -- Empty: nobody.
    token         INTEGER NOT NULL CHECK (token >= 0),
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, endpoint_id)
) {table:clustered,hot};
-- all spaces: one dispatcher serves them all. Unique: ids are drawn at random, and must not meet.
CREATE UNIQUE INDEX onefold_webhook_lanes_endpoint ON onefold.webhook_lanes (endpoint_id);
-- all spaces: a dispatcher renews its own.
CREATE INDEX onefold_webhook_lanes_owner ON onefold.webhook_lanes (owner);

-- Given up after the last attempt of the schedule. Waits for a replay.
-- RETENTION: deleted by a replay or with the endpoint, swept after 30 days.
CREATE TABLE onefold.webhook_failed (
    space        INTEGER NOT NULL,
    endpoint_id  TEXT    NOT NULL CHECK (length(endpoint_id) BETWEEN 1 AND 60),
    message_id   TEXT    NOT NULL CHECK (length(message_id) BETWEEN 1 AND 60),
    failed_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, endpoint_id, message_id)
) {table:clustered};
-- all spaces: swept by age.
CREATE INDEX onefold_webhook_failed_age ON onefold.webhook_failed (failed_at_ms);

-- Every attempt that was made and noted. One whose dispatcher died in the middle is not here; it was made again.
-- RETENTION: swept 30 days after it was noted.
CREATE TABLE onefold.webhook_attempts (
    space       INTEGER NOT NULL,
    endpoint_id TEXT    NOT NULL CHECK (length(endpoint_id) BETWEEN 1 AND 60),
    message_id  TEXT    NOT NULL CHECK (length(message_id) BETWEEN 1 AND 60),
    attempt     INTEGER NOT NULL CHECK (attempt >= 1),
    outcome     TEXT    NOT NULL CHECK (length(outcome) BETWEEN 1 AND 20),
    status      INTEGER, -- NULL: there was no answer.
    took_ms     INTEGER NOT NULL CHECK (took_ms >= 0),
    detail      TEXT    NOT NULL CHECK (length(detail) <= 1000), -- The beginning of the answer, or the error.
    at_ms       INTEGER NOT NULL,
    PRIMARY KEY (space, endpoint_id, message_id, attempt)
) {table:clustered};
-- all spaces: swept by age.
CREATE INDEX onefold_webhook_attempts_age ON onefold.webhook_attempts (at_ms);
