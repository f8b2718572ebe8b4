"""What steers a run while it goes: the length window, and alarms for a collapse. No torch in this room."""
