"""Forklight's rollout service: takes groups from the task queue, generates their samples, hands trajectories to the buffer."""
