"""What other processes of the tests run."""

import gc

gc.set_threshold(10_000)  # torch and Lightning are imported a tenth faster, and most of these do little else
