"""The front door's rules: where a task goes, how often it is tried, and what reward comes of it."""
