"""TensorBoard: event files under RUN/trackers/tensorboard, read with `tensorboard --logdir`."""

from __future__ import annotations

from collections.abc import Mapping

from forklight_cli.trackers.choose import Target, Tracker


def open_target(target: Target) -> Tracker:
    """Event files of this process; earlier ones stay and are shown with them."""
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder = target.folder / "tensorboard"
    folder.mkdir(parents=True, exist_ok=True)
    return TensorBoardTracker(EventFileWriter(str(folder)))


class TensorBoardTracker:
    """One scalar a number."""

    def __init__(self, writer: object) -> None:
        self._writer = writer

    def log(self, step: int, at: float, numbers: Mapping[str, float]) -> None:
        """One event with all numbers of the step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name.replace(".", "/"), simple_value=value) for name, value in numbers.items()
        ]
        self._writer.add_event(Event(step=step, wall_time=at, summary=Summary(value=values)))  # type: ignore[attr-defined]

    def close(self) -> None:
        """Flush."""
        self._writer.close()  # type: ignore[attr-defined]
