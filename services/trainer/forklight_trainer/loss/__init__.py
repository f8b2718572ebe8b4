"""The equations: advantage, weight, mask, and the one loss they are settings of."""
