"""The command line's side of the trainer's door: where it stands, and going back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forklight_cli.run_folder import RunFolder, is_locked, read_system
from forklight_core.errors import UnavailableError

if TYPE_CHECKING:
    from forklight.v1 import trainer_pb2

CALL_DEADLINE_S = 15.0


class TrainerClient:
    """Calls to the trainer of one run, each with a deadline; usable as a context manager."""

    def __init__(self, address: str) -> None:
        from forklight.v1 import trainer_pb2_grpc
        from forklight_core.rpc import open_sync_channel

        self._channel = open_sync_channel(address)
        self._stub = trainer_pb2_grpc.TrainerStub(self._channel)

    def __enter__(self) -> TrainerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the channel back."""
        self._channel.close()

    def status(self) -> trainer_pb2.GetTrainerStatusReply:
        """Where the trainer stands, and the checkpoints there are."""
        from forklight.v1 import trainer_pb2

        return self._stub.GetTrainerStatus(trainer_pb2.GetTrainerStatusRequest(), timeout=CALL_DEADLINE_S)

    def roll_back(
        self, step: int, reason: str, *, exact: bool = False, dry_run: bool = False
    ) -> trainer_pb2.RollBackReply:
        """Go back to the newest checkpoint up to a step, or say what that would give up."""
        from forklight.v1 import trainer_pb2

        request = trainer_pb2.RollBackRequest(step=step, reason=reason, exact=exact, dry_run=dry_run)
        return self._stub.RollBack(request, timeout=CALL_DEADLINE_S)


def connect_trainer(folder: RunFolder) -> TrainerClient:
    """A client of the trainer that `forklight up` started for a run folder."""
    address = read_system(folder).addresses.get("trainer")
    if not address or not is_locked(folder):
        raise UnavailableError(
            f"the run of {folder.path} is not up: `forklight resume {folder.path}` starts its trainer"
        )
    return TrainerClient(address)
