-- Who did what to what, and why: one row per action of a person or of a program in a person's place.
-- Rows are inserted in the transaction of the action itself and never updated.
-- Retention: kept 400 days, so that a year can be looked back on at its end; then swept.
CREATE TABLE onefold.audit (
    space   INTEGER NOT NULL,
    id      TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    at_ms   INTEGER NOT NULL,
    actor   TEXT    NOT NULL CHECK (length(actor) BETWEEN 1 AND 200),
    action  TEXT    NOT NULL CHECK (length(action) BETWEEN 1 AND 100),
    subject TEXT    NOT NULL CHECK (length(subject) <= 400),
    reason  TEXT    NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    facts   TEXT    NOT NULL CHECK (length(facts) <= 8192), -- A JSON object.
    PRIMARY KEY (space, id)
) {table:clustered};
-- all spaces: swept by age.
CREATE INDEX onefold_audit_at ON onefold.audit (at_ms);
