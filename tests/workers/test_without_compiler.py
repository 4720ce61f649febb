import subprocess
import sys

WORKER = """
import sys
from workers.without_compiler import without_compiler

with without_compiler():
    import workers.process
import torch
from torch import nn

weight = nn.Parameter(torch.ones(2))
weight.grad = torch.ones(2)
with without_compiler():
    torch.optim.Adam([weight], fused=True).step()
assert not any(name.startswith("torch._dynamo") for name in sys.modules)

with without_compiler():
    print(torch._dynamo.is_compiling())

def double(x):
    return 2 * x

print(torch.compile(double, backend="eager")(torch.ones(1)).item())
"""


def test_worker_trains_without_loading_the_compiler_which_works_if_it_is_wanted() -> None:
    """Neither timm nor an optimizer loads it, and no stand-in is left behind."""
    command = [sys.executable, "-c", WORKER]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("False\n2.0\n", 0), done.stderr
