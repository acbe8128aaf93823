"""Experiments: one TOML file and one command each, and what they found."""
