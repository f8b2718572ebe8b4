"""Step records into trackers that people have already. Each needs its own package; Forklight needs none."""

from forklight_cli.trackers.choose import Target, Tracker, TrackerName, open_tracker
from forklight_cli.trackers.feed import Feed

__all__ = ["Feed", "Target", "Tracker", "TrackerName", "open_tracker"]
