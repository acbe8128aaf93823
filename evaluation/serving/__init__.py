"""Sponge beside other servers: the same models, machine, quota and client, in one run."""
