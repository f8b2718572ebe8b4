"""What the buffer stands on: Redis for what is open, SQLite for what is final."""
