"""Rewards of different sources on one scale: running clip and normalisation, frozen by policy version."""
