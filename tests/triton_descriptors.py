"""Prints tritonclient's descriptors as JSON: in one process they clash with ours."""

import json
import sys
from pathlib import Path

from tritonclient.grpc import model_config_pb2, service_pb2

sys.path.append(str(Path(__file__).parents[1]))

from tests import descriptors

if __name__ == "__main__":
    found = descriptors.of_file(model_config_pb2.DESCRIPTOR) | descriptors.of_file(service_pb2.DESCRIPTOR)
    print(json.dumps(found))
