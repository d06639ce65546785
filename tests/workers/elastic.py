"""For torchrun: train until the end; in the first life, one worker is lost on the way. Arguments: folder, epochs."""

import os
import sys

import torch

from tests.workers.fault_ranks import resumable
from tests.workers.ranks import rank

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, epochs, kill_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    torch.save(resumable(folder, epochs, kill_at if first_life else None), f"{folder}/rank{rank()}.pt")
