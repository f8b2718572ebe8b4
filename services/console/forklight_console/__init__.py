"""Console: a page and a JSON API that show a run. Reads; never on the path."""
