"""One update: forward and backward, what was measured, the gate, the line it leaves."""
