"""A follower whose products add in the order of their numbers: python ranks_follower.py STEPS CONTROL."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from forklight_kernels import Backend, using_backend
from forklight_rollout.adapters.native.ranks.follower import main
from libs.model.tests.ordered_products import OrderedProducts

if __name__ == "__main__":
    with using_backend(Backend.TORCH), OrderedProducts():
        main(sys.argv[1:])
