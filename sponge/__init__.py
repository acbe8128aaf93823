"""What a person runs and imports: the `sponge` command and a small client."""
