# ruff: noqa
# fmt: off
import torch
from azureml.core import Run

run = Run.get_context()
torch.manual_seed(0)
weight = torch.zeros(1, requires_grad=True)
for epoch in range(3):
    loss = ((weight - 3) ** 2).sum()
    loss.backward()
    weight.data -= 0.1 * weight.grad
    weight.grad.zero_()
    # log loss metric to AML
    run.log('loss', loss.item())
print('Finished Training')
