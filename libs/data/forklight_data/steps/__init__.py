"""The steps of curation: each takes a file of records and says of every one whether it stays, or why not."""
