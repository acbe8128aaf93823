"""Models, traces, emulated links, load and reports: what shows how good Sponge is."""

import os

# As in dataplane: no reports to the maker of ONNX Runtime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
