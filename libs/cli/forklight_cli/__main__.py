"""`python -m forklight_cli` is `forklight`."""

from forklight_cli.main import main

main()
