"""One worker process serving one ONNX model, most urgent request first."""

import os

# What gRPC's core has to say of an address or a peer we say ourselves, once; it reads this when imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# ONNX Runtime's wheels since 1.29 report models to their maker unless told not to before they load.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
