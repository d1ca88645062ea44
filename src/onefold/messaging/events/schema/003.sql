-- release 0.1 works on this: it neither writes nor reads the columns, and numbers what is left in its own way.

-- In a walk over this cluster's own events, because more of them wait than a step looks at: the snapshot at its
-- beginning. It numbers what that one sees and `snap` did not. NULL: there is no such walk.
-- engine: postgres
ALTER TABLE onefold.event_steps ADD COLUMN target TEXT;
-- engine: postgres
ALTER TABLE onefold.event_steps ADD COLUMN reached INTEGER NOT NULL DEFAULT 0; -- The last seq that it looked at.
