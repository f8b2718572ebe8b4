"""Rows out of files of every kind that is read, with the place of each."""
