"""The way to the Docker engine's socket: the few calls that resizing takes, and no others."""
