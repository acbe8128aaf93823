"""Models, traces, emulated links, load and reports: what shows how good Sponge is."""
