"""What `hotlap init` writes; `$` marks what it fills in."""

TEMPLATE = '''\
"""$name: what the model is and how it is judged.

    hotlap profile $file
    hotlap optimize $file --out runs/$name
"""

${standard_imports}import torch
${load_import}from torch import nn
from torch.nn import functional

from hotlap import Workload

$own_imports

def model() -> nn.Module:
    """The model with its trained weights, in eval mode."""
$model


def example(batch: int):
    """Inputs with `batch` rows, as like the real ones as can be: a Tensor, a tuple of them or a dict of them."""
$example


def evaluation():
    """Batches of (inputs, targets) that training never saw. Finite, and the same each time: no shuffling."""
    raise NotImplementedError("give the held-out data")


def score(outputs, targets):
    """One number an example, [batch], higher is better. This one counts right classes."""
    return (outputs.argmax(1) == targets).float()


def training():
    """A Dataset of (input, target), or batches of them. Quantization calibrates on it, `hotlap train` trains."""
    raise NotImplementedError("give the training data")


def loss(outputs, targets):
    """What training makes smaller."""
    return functional.cross_entropy(outputs, targets)


workload = Workload(
    name="$name",
    model=model,
    example=example,
    # Without these two accuracy is not measured: outputs are only compared with the original's.
    # evaluation=evaluation,
    # score=score,
    # Without this one nothing that needs calibration (static int8) is tried. `calibration=` may give other inputs.
    # training=training,
    # For `hotlap train` and `hotlap tune`: what you train with today.
    # loss=loss,
    # optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    # batch_size=64,
    # epochs=3,
    # Axes that vary besides the batch, with their range, by the name of forward's parameter:
    # dynamic={"ids": {0: "batch", 1: ("length", 1, 512)}},
    # A label an example, if the gate is to hold for each slice of the data too:
    # slices=lambda inputs, targets: [f"class {target}" for target in targets.tolist()],
)
'''
