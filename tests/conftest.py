import pytest
import torch

torch.set_num_threads(1)  # the models here are tiny: threads only get into each other's way


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
