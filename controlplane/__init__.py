"""Learns what every model costs, plans the host's CPU, and resizes running workers."""

import os

# What gRPC's core has to say of an address or a peer we say ourselves, once; it reads this when imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
