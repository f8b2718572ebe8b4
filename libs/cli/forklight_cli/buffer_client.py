"""The command line's side of the buffer's door: status, run control, dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from forklight_cli.run_folder import RunFolder, read_system
from forklight_core.errors import UnavailableError

if TYPE_CHECKING:
    from forklight.v1 import buffer_pb2

CALL_DEADLINE_S = 10.0


class BufferClient:
    """Calls to the buffer of one run, each with a deadline; usable as a context manager."""

    def __init__(self, address: str, run_id: str) -> None:
        from forklight.v1 import buffer_pb2_grpc
        from forklight_core.rpc import open_sync_channel

        self.address = address
        self.run_id = run_id
        self._channel = open_sync_channel(address)
        self._stub = buffer_pb2_grpc.BufferStub(self._channel)

    def __enter__(self) -> BufferClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the channel back."""
        self._channel.close()

    def status(self, *, timeout_s: float = CALL_DEADLINE_S) -> buffer_pb2.GetStatusReply:
        """Where the run stands."""
        from forklight.v1 import buffer_pb2

        return self._stub.GetStatus(buffer_pb2.GetStatusRequest(run_id=self.run_id), timeout=timeout_s)

    def set_phase(
        self, phase: buffer_pb2.RunPhase, reason: str, *, timeout_s: float = CALL_DEADLINE_S
    ) -> buffer_pb2.RunPhase:
        """Pause the run, let it drain, let it go on."""
        from forklight.v1 import buffer_pb2

        request = buffer_pb2.SetRunPhaseRequest(run_id=self.run_id, phase=phase, reason=reason)
        return self._stub.SetRunPhase(request, timeout=timeout_s).phase

    def dead_letters(self, *, limit: int) -> Sequence[buffer_pb2.DeadLetter]:
        """Queue entries that were given up."""
        from forklight.v1 import buffer_pb2

        request = buffer_pb2.ListDeadLettersRequest(run_id=self.run_id, limit=limit)
        return self._stub.ListDeadLetters(request, timeout=CALL_DEADLINE_S).letters

    def redrive(self, ids: Sequence[str]) -> int:
        """Open fresh groups for the prompts of dead letters; no ids means all."""
        from forklight.v1 import buffer_pb2

        request = buffer_pb2.RedriveDeadLettersRequest(run_id=self.run_id, ids=ids)
        return self._stub.RedriveDeadLetters(request, timeout=CALL_DEADLINE_S).num_redriven


def connect_buffer(folder: RunFolder) -> BufferClient:
    """A client of the buffer that `forklight up` started for a run folder."""
    record = read_system(folder)
    address = record.addresses.get("buffer")
    if not address:
        raise UnavailableError(
            f"no buffer was started for {folder.path}: `forklight resume {folder.path}` starts it"
        )
    return BufferClient(address, record.run_id)
