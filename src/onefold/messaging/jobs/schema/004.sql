-- release 0.1 works on this: it neither writes nor reads the column.

-- What the worker ended in the last minute, noted with its heartbeat: {"kind": [finished, failed]}, as JSON.
ALTER TABLE onefold.jobs_workers ADD COLUMN rates TEXT NOT NULL DEFAULT '{}' CHECK (length(rates) <= 100000);
