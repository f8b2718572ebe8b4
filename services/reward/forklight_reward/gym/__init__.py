"""reasoning-gym as a source of puzzles: items made here, answers scored inside a jail. Extra `logic-rg`."""
