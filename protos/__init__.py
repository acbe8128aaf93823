"""Wire formats of both planes; the modules beside this file are generated at build time."""
