"""Learns what every model costs, plans the host's CPU, and resizes running workers."""
