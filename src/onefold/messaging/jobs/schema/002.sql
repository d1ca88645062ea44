-- expand: an older release neither writes nor reads differently for it.

-- all spaces: cancels that no worker read are swept by age.
CREATE INDEX onefold_jobs_cancels_at ON onefold.jobs_cancels (at_ms);
