"""What FORKLIGHT_DEVICE comes to on a machine without a GPU."""

import pytest
import torch

from forklight_core.errors import ConfigError
from forklight_model.device import choose_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error_when_it_is_asked_for() -> None:
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="FORKLIGHT_DEVICE is cuda.*set FORKLIGHT_DEVICE=cpu"):
        choose_device("cuda")
