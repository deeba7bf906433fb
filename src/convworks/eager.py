"""torch's optimizers and dispatch modes, without torch's compiler.

torch imports its compiler, for one to two seconds, only to keep it away from what is not to be compiled: when
an optimizer gets parameters, in each of its steps, and where a mode sees its first operator (`torch._dynamo`,
in torch 2.13). Nothing here is ever compiled, so what lies beneath those wrappers is called. It computes the
same.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode


class EagerMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The base of our dispatch modes."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class EagerOptimizer(Optimizer):
    """To stand before torch's optimizer among the bases of a class, or alone."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        inspect.unwrap(Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        inspect.unwrap(Optimizer.zero_grad)(self, set_to_none)


class SGD(EagerOptimizer, torch.optim.SGD):
    """Stochastic gradient descent with momentum."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class RMSprop(EagerOptimizer, torch.optim.RMSprop):
    """Hinton's division by a running mean of the gradients' magnitudes."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.RMSprop.step))


class Adam(EagerOptimizer, torch.optim.Adam):
    """Kingma and Ba 2014."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(EagerOptimizer, torch.optim.AdamW):
    """Loshchilov and Hutter 2017: weight decay apart from the gradient."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
