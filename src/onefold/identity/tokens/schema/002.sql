-- release 0.1 works on this: two indexes more.

-- all spaces: swept by age. Two, as a token ends in two ways; `used_at_ms` is in neither, so that its updates stay HOT.
CREATE INDEX onefold_tokens_revoked ON onefold.tokens (revoked_at_ms) WHERE revoked_at_ms IS NOT NULL;
-- all spaces: swept by age.
CREATE INDEX onefold_tokens_expires ON onefold.tokens (expires_at_ms) WHERE expires_at_ms IS NOT NULL;
