"""The announced weights: verified, proven by their probe, and swapped in between two steps."""
