"""`python -m tests.fuzz.waiting ADDRESS SPINS COUNT`: a client that waits for so many answers, until it is killed."""

import sys

import grpc

from tests import spinning
from tests.inference import infer_request, stub

if __name__ == "__main__":
    address, spins, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    request = infer_request(spinning.NAME, spinning.spins(spins))
    with grpc.insecure_channel(address) as channel:
        calls = [stub(channel).ModelInfer.future(request) for _ in range(count)]
        for call in calls:
            call.exception()
