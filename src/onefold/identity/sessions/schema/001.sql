-- People who logged in with a token: one row per browser. All rows stand in the root space, as those of tokens do.
-- `digest` is SHA-256 over the secret in the cookie, which has 256 random bits and is stored nowhere.
-- Retention: an ended session is deleted at once, one whose time is over is swept.
CREATE TABLE onefold.sessions (
    space         INTEGER NOT NULL,
    id            TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    digest        TEXT    NOT NULL CHECK (length(digest) = 64),
    token_id      TEXT    NOT NULL CHECK (length(token_id) BETWEEN 1 AND 60),
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL CHECK (expires_at_ms > created_at_ms),
    PRIMARY KEY (space, id)
) {table:clustered};
-- all spaces: swept by age.
CREATE INDEX onefold_sessions_expires ON onefold.sessions (expires_at_ms);
