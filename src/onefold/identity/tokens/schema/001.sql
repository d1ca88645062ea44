-- One row per bearer token. All rows stand in the root space; `space_name` says which one a token opens.
-- `digest` is SHA-256 over the secret: the secret itself has 256 random bits and is stored nowhere.
-- Retention: a revoked or expired token stays 90 days for whoever reads old logs, then it is swept.
CREATE TABLE onefold.tokens (
    space         INTEGER NOT NULL,
    id            TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    name          TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    digest        TEXT    NOT NULL CHECK (length(digest) = 64),
    rights        TEXT    NOT NULL CHECK (length(rights) BETWEEN 2 AND 8192), -- A JSON array.
    space_name    TEXT    NOT NULL CHECK (length(space_name) <= 200),
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER CHECK (expires_at_ms > created_at_ms), -- NULL: does not expire.
    revoked_at_ms INTEGER, -- NULL: not revoked. Once set it stays.
    used_at_ms    INTEGER, -- Coarse: written at most once an hour.
    PRIMARY KEY (space, id)
) {table:clustered,hot};
