"""Folders that are whole or not there: weights, optimizer, and what they have learned from."""
