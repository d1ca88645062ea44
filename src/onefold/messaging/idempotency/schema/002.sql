-- For keys that are begun in one transaction and answered in another. Invariants: whoever answers
-- names the attempt that has the key; an unanswered key without a lease is never committed.
ALTER TABLE onefold.idempotency_keys ADD COLUMN body BLOB CHECK (length(body) <= 65536);
ALTER TABLE onefold.idempotency_keys ADD COLUMN attempt TEXT; -- Its holder's token; NULL: given back, or `once`.
ALTER TABLE onefold.idempotency_keys ADD COLUMN attempts INTEGER NOT NULL DEFAULT 1;
ALTER TABLE onefold.idempotency_keys ADD COLUMN lease_until_ms INTEGER; -- NULL: never left its transaction.
