"""Forklight's rollout service: takes groups off the task queue and turns them into trajectories."""
