import pytest
import torch

from livetalk.ops.transfer import to_device


def test_a_tensor_on_the_device_is_returned() -> None:
    x = torch.randn(4)
    assert to_device(x, torch.device("cpu")) is x


def test_a_meta_tensor_keeps_its_shape() -> None:
    moved = to_device(torch.randn(2, 3), torch.device("meta"))
    assert moved.is_meta and moved.shape == (2, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_copy_does_not_block_and_is_complete() -> None:
    device = torch.device("cuda")
    samples = [torch.randn(17_920) for _ in range(16)]
    to_device(samples[0], device)
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    asleep = torch.cuda.Event()
    asleep.record()
    moved = [to_device(x, device) for x in samples]
    assert not asleep.query(), "the sleep of a second had ended: something waited for it"
    for x, there in zip(samples, moved, strict=True):
        assert torch.equal(there.cpu(), x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_compiles() -> None:
    device = torch.device("cuda")

    @torch.compile(fullgraph=True, backend="aot_eager")
    def shifted(x: torch.Tensor) -> torch.Tensor:
        return x + to_device(torch.tensor((1.0, 2.0), device="cpu"), device)

    assert torch.equal(shifted(torch.zeros(2, device=device)).cpu(), torch.tensor((1.0, 2.0)))
