import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """Compute on one thread: rows are small here, and waiting for a second, busy core takes longer than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
