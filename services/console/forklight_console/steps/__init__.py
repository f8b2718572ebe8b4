"""Step records: read as they grow, held as columns, thinned for charts."""
