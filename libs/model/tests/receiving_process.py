"""A process that receives files: python receiving_process.py RENDEZVOUS SESSIONS FOLDER SIZES [KILL_AFTER].

SIZES is `name=bytes,...`; it kills itself after so many buckets. BACKEND and DEVICE say how it receives. One
line of output for each session.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from forklight_core.errors import UnavailableError
from forklight_model.file_sending import FileReceiver
from forklight_model.sending_group import Group, SendRules, Work


def main(rendezvous: str, sessions: str, folder: str, sizes: str, kill_after: str = "") -> None:
    torch.set_num_threads(1)
    if kill_after:
        die_after(int(kill_after))
    pairs = [each.split("=") for each in sizes.split(",")]
    rules = SendRules(
        rendezvous=rendezvous,
        backend=os.environ.get("BACKEND", "gloo"),
        join_s=60.0,
        deadline_s=float(os.environ["DEADLINE_S"]),
        bucket_bytes=int(os.environ["BUCKET_BYTES"]),
    )
    device = torch.device(os.environ.get("DEVICE", "cpu"))
    for session in sessions.split(","):
        Path(folder, session).mkdir()
        try:
            FileReceiver(rules, device).receive(
                session, [(Path(folder, session, name), int(n)) for name, n in pairs]
            )
            sys.stdout.write(f"{session} whole\n")
        except UnavailableError as error:
            sys.stdout.write(f"{session} {' '.join(str(error).split())}\n")


def die_after(num_buckets: int) -> None:
    pass_on, seen = Group._pass_on, []

    def counted(self: Group, bucket: torch.Tensor) -> Work:
        seen.append(bucket)
        if len(seen) > num_buckets:
            os.kill(os.getpid(), signal.SIGKILL)
        return pass_on(self, bucket)

    Group._pass_on = counted  # type: ignore[method-assign]
    SendRules.is_apart = property(lambda self: False)  # type: ignore[assignment]  # this process is to die


if __name__ == "__main__":
    main(*sys.argv[1:])
