"""The run overview: phase, events, evaluations, and live charts over the step records."""
