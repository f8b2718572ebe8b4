"""Held-out evaluation: when rounds are held, what they say, and how a run ends with its last one."""
