// Open loop over gRPC, as k6 speaks it: 50 requests a second for two seconds, raw contents in base64.
import encoding from "k6/encoding";
import grpc from "k6/net/grpc";
import { check } from "k6";

export const options = {
  scenarios: {
    steady: {
      executor: "constant-arrival-rate",
      rate: 50,
      timeUnit: "1s",
      duration: "2s",
      preAllocatedVUs: 10,
      maxVUs: 50,
    },
  },
  thresholds: { checks: ["rate==1"] },
};

const client = new grpc.Client();
client.load([__ENV.PROTOS], "inference.proto");

export default function () {
  if (__ITER === 0) client.connect(__ENV.ADDRESS, { plaintext: true });
  const answer = client.invoke(
    "inference.GRPCInferenceService/ModelInfer",
    {
      modelName: "scale",
      id: `${__VU}-${__ITER}`,
      inputs: [{ name: "x", datatype: "FP32", shape: [1, 4] }],
      rawInputContents: [encoding.b64encode(new Float32Array([1, 2, 3, 4]).buffer)],
    },
    { timeout: "30s" },
  );
  const outputs = answer.status === grpc.StatusOK ? answer.message.rawOutputContents : [];
  const values = outputs.length === 1 ? new Float32Array(encoding.b64decode(outputs[0])) : [];
  check(answer, {
    "is OK": (a) => a.status === grpc.StatusOK,
    "has its id": (a) => a.message && a.message.id === `${__VU}-${__ITER}`,
    "is right": () => values.length === 4 && values.every((value, at) => value === 2 * (at + 1)),
  });
}
