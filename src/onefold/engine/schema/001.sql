-- The engine's own tables. `onefold.schema` comes first: it says what else exists.

-- One row per applied file. Never deleted.
CREATE TABLE onefold.schema (
    block         TEXT    NOT NULL,
    version       INTEGER NOT NULL CHECK (version > 0),
    digest        TEXT    NOT NULL, -- Of the file as applied: an edited file is refused.
    applied_at_ms INTEGER NOT NULL,
    PRIMARY KEY (block, version)
) {table:clustered};

-- The name behind each space number: two names with one number are refused. Never deleted.
CREATE TABLE onefold.spaces (
    space INTEGER NOT NULL PRIMARY KEY,
    name  TEXT    NOT NULL CHECK (length(name) <= 200)
) {table};

-- PostgreSQL: one row per writing attempt, so that a connection lost at COMMIT can be answered.
-- Kept for an hour, then swept.
CREATE TABLE onefold.tx (
    id    INTEGER NOT NULL PRIMARY KEY,
    at_ms INTEGER NOT NULL
) {table};
CREATE INDEX onefold_tx_at ON onefold.tx (at_ms);

-- Counters: what was added and not yet folded, and the folded total. Deltas live for seconds.
CREATE TABLE onefold.counter_deltas (
    id    {identity},
    space INTEGER NOT NULL,
    key   TEXT    NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    delta INTEGER NOT NULL
) {table};
CREATE INDEX onefold_counter_deltas_key ON onefold.counter_deltas (space, key);

-- Totals are kept until their owner removes the key.
CREATE TABLE onefold.counter_totals (
    space INTEGER NOT NULL,
    key   TEXT    NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    total INTEGER NOT NULL,
    PRIMARY KEY (space, key)
) {table:clustered,hot};
