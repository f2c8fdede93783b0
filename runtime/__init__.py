"""What runs a script: fast forward passes, options, log, folder, measures. Skip at first.

Scripts import it before torch, because of what torch reads once, when it is loaded: how long one
of its threads spins when it waits for another. Without a word it spins for milliseconds, and on a
busy machine holds the core that the other one needs. A thread that sleeps at once takes long to
wake on an idle machine. So it spins for some ten microseconds.
"""

import os

if os.environ.keys().isdisjoint({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}):  # nobody has decided
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # what a Mac's OpenMP reads: it sleeps at once
    os.environ["GOMP_SPINCOUNT"] = "1000"  # what Linux's reads, above the other
