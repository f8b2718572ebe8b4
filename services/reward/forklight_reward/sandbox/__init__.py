"""Untrusted programs: run in a jail, judged outside it. Expected values never enter the jail."""
