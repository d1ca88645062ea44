-- release 0.1 works on this: an index more.

-- all spaces: cancels that no worker read are swept by age.
CREATE INDEX onefold_jobs_cancels_at ON onefold.jobs_cancels (at_ms);
