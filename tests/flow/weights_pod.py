"""A pod that does nothing but take weights: python weights_pod.py RENDEZVOUS CACHE KILL_AFTER, then a line of
JSON for each announcement on standard input, and one of what became of it on standard output.

KILL_AFTER: so many buckets into what it is sent it kills itself; 0: it does not.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from forklight.v1 import types_pb2
from forklight_core.errors import ForklightError
from forklight_model.file_sending import FileReceiver
from forklight_model.sending_group import Group, SendRules, Work
from forklight_rollout.adapters.published import read_tensors
from forklight_rollout.weights.cache import WeightsCache
from forklight_rollout.weights.source import CachedSource

RUN_ID = "test-run"
BUCKET_BYTES = 4096


def main(rendezvous: str, cache: str, kill_after: str) -> None:
    torch.set_num_threads(1)
    if int(kill_after):
        die_after(int(kill_after))
    rules = SendRules(rendezvous=rendezvous, join_s=60.0, deadline_s=6.0, bucket_bytes=BUCKET_BYTES)
    receiver = FileReceiver(rules) if rendezvous else None
    source = CachedSource(cache=WeightsCache(folder=Path(cache)), receiver=receiver)
    say("ready")
    for line in sys.stdin:
        announced = types_pb2.WeightsRef(**json.loads(line))
        try:
            weights = source.open(announced, RUN_ID)
            sums = {name: checksum(tensor) for name, tensor in read_tensors(weights).items()}
            is_copied = weights.folder.parent == Path(cache)
            answer = {"version": weights.version, "is_copied": is_copied, "sums": sums}
        except ForklightError as error:
            answer = {"error": str(error)}
        say(json.dumps(answer))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def checksum(tensor: torch.Tensor) -> int:
    bits = tensor.contiguous().reshape(-1).view(torch.int16 if tensor.element_size() == 2 else torch.int32)
    return int((bits.to(torch.int64) * torch.arange(1, 2 * len(bits), 2)).sum())


def die_after(num_buckets: int) -> None:
    pass_on, seen = Group._pass_on, []

    def counted(self: Group, bucket: torch.Tensor) -> Work:
        seen.append(bucket)
        if len(seen) > num_buckets:
            os.kill(os.getpid(), signal.SIGKILL)
        return pass_on(self, bucket)

    Group._pass_on = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    main(*sys.argv[1:])
