import torch

from hotlap.training.averaging import Average


def test_weights_that_get_another_storage_are_averaged_too() -> None:
    model = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.ones_(model.weight)
    average = Average(model, 0.5)
    model.weight.data = torch.full((2, 2), 3.0)
    average.update()
    with average.in_place():
        assert torch.equal(model.weight, torch.full((2, 2), 2.0))
    assert torch.equal(model.weight, torch.full((2, 2), 3.0))
    average.take()
    assert torch.equal(model.weight, torch.full((2, 2), 2.0))
