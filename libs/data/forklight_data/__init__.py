"""Prompts with their answers on their way from somebody's files to a run: import, curate, count, split."""
