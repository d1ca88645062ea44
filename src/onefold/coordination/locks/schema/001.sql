-- One row per name that was locked lately. Invariant: while a row lives its token never falls,
-- and whoever does not carry its token does not hold the lock. A free row has no owner.
-- RETENTION: an hour after its lock ended a row is marked, an hour after that it is deleted.
CREATE TABLE onefold.locks (
    space          INTEGER NOT NULL,
    name           TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    owner          TEXT    CHECK (length(owner) BETWEEN 1 AND 200), -- NULL: nobody holds it.
    token          INTEGER NOT NULL CHECK (token > 0),
    acquired_at_ms INTEGER NOT NULL,
    expires_at_ms  INTEGER NOT NULL,
    marked_at_ms   INTEGER, -- Since when lock_floors answers for the token; NULL: it does not.
    PRIMARY KEY (space, name)
) {table:clustered,hot};
-- No index on expires_at_ms: it would change at every renewal, and renewals are most of the work.

-- Names without a row begin above this token. Invariant: a row of onefold.locks is deleted only
-- when this has been at least its token for an hour, so that no transaction can still see less.
-- RETENTION: one small row per space, kept.
CREATE TABLE onefold.lock_floors (
    space INTEGER NOT NULL,
    token INTEGER NOT NULL CHECK (token > 0),
    PRIMARY KEY (space)
) {table:clustered,hot};

-- How far the sweep has come through onefold.locks. RETENTION: at most one row, kept.
CREATE TABLE onefold.lock_sweep (
    space INTEGER NOT NULL,
    name  TEXT    NOT NULL,
    PRIMARY KEY (space)
) {table:clustered};
