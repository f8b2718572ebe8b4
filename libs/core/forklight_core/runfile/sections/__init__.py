"""One file a theme; `schema.py` puts them together."""
