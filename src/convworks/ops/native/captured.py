"""Work that is written down once and run again and again on the same memory, as a CUDA graph is on a GPU.

A small network's pass is dozens of kernels of some ten microseconds each, and Python takes as long to find
out what each of them is to do. Where nothing but the numbers differs from the last pass, that is known.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from convworks.ops.native import library


class Captured:
    """Kernels and torch's operators in the order in which they came.

    As the `run` of a function of this folder it writes a kernel down in place of running it. The tensors'
    memory is kept where the kernel looks for it, also when a parameter is given other memory meanwhile.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self._work: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def __call__(self, name: str, *arguments: object) -> None:
        self.tensors += [each.detach() for each in arguments if isinstance(each, Tensor)]
        self._work.append((library.kernel(name), tuple(map(library.as_taken, arguments))))

    def then(self, operator: Callable[..., object], *arguments: Tensor) -> None:
        """An operator of torch's that writes into one of its arguments."""

        def work(*given: object) -> None:
            operator(*given)

        self.tensors += arguments
        self._work.append((work, arguments))

    def replay(self) -> None:
        """Run all of it. Raises MemoryError where a kernel finds no memory."""
        for work, arguments in self._work:
            if work(*arguments):
                raise MemoryError("a kernel found no memory")
