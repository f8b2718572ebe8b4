"""A kernel may be launched before the one before it has ended (sm_90 on): its start then costs little.

Everything launched so (`launch.early_start`) begins with `follow`. Each waits for the one before it, so
whoever has waited knows that all before have ended.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def follow(EARLY: tl.constexpr):
    """First in a kernel: from here on, what earlier kernels wrote is there, and the next may be launched.

    The other order would let a whole row of kernels wait on the multiprocessors, in the way of who works.
    """
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
