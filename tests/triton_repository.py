"""What tritonclient says of a model that it loads and unloads, as JSON; see triton_client."""

import json
import sys

import tritonclient.grpc as triton


def main(address: str, model: str) -> None:
    """Load what there is, and unload it."""
    client = triton.InferenceServerClient(address)

    def index() -> list[list[str]]:
        return [[each.version, each.state] for each in client.get_model_repository_index().models]

    told: dict[str, list[object]] = {"before": index()}
    client.load_model(model)
    told["loaded"] = index()
    told["ready"] = [client.is_model_ready(model, "2")]
    client.unload_model(model)
    told["unloaded"] = index()
    told["ready"].append(client.is_model_ready(model))
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
