"""How a model runs for a while: in evaluation mode, or traced into a graph."""

import pytest
import torch
from torch import Tensor, nn

from mmfusion.model.graph import evaluating, is_exporting, is_tracing, runs_in_several_processes


def test_each_module_returns_to_its_own_mode_also_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout(), nn.Linear(1, 1)))
    model.train()
    model[1][0].eval()
    before = [module.training for module in model.modules()]
    assert True in before and False in before
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(RuntimeError, match="stop"), evaluating(model):
        raise RuntimeError("stop")
    assert [module.training for module in model.modules()] == before


def tracing(values: Tensor) -> Tensor:
    return values + (1 if is_tracing() else 0) + (2 if is_exporting() else 0)


class Tracing(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return tracing(values)


def test_a_graph_knows_that_it_is_traced_and_whether_it_is_exported() -> None:
    zero = torch.zeros(1)
    assert tracing(zero).item() == 0
    assert torch.compile(tracing, backend="eager", fullgraph=True)(zero).item() == 1
    exported = torch.export.export(Tracing(), (zero,), strict=False).module()
    assert exported(zero).item() == 3
    assert tracing(zero).item() == 0


def test_only_more_than_one_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not runs_in_several_processes()
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    for processes in (1, 2, 8):
        monkeypatch.setattr("torch.distributed.get_world_size", lambda n=processes: n)
        assert runs_in_several_processes() == (processes > 1)
