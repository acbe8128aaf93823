"""Real workers under several policies, one after the other on the same workload."""
