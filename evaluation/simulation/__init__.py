"""Services, workloads and policies in virtual time: the worker's and the control plane's own decisions, no clock."""
