-- One row per key that was used in a scope: what was asked, and what was answered. Invariant: a
-- committed row has its answer, because key, effects and answer commit together.
-- RETENTION: until expires_at_ms (the caller's ttl_ms, a day by default), then swept.
CREATE TABLE onefold.idempotency_keys (
    space         INTEGER NOT NULL,
    scope         TEXT    NOT NULL CHECK (length(scope) BETWEEN 1 AND 200),
    key           TEXT    NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint   TEXT    NOT NULL CHECK (length(fingerprint) = 32),
    answer        TEXT    CHECK (length(answer) <= 65536), -- JSON; NULL: being found out right now.
    asked_at_ms   INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, scope, key)
) {table:hot};
-- For the sweep, which works on all spaces at once. Storing the answer does not touch it.
-- all spaces
CREATE INDEX onefold_idempotency_keys_expires ON onefold.idempotency_keys (expires_at_ms);
