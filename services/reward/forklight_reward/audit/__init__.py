"""The audit of verdicts: one line each in chained files, longer evidence beside them, and the way back."""
