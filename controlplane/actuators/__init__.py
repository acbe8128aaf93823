"""One door to each owner of CPU quotas."""
