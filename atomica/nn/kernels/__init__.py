"""Kernels: ways to do the sums and products of the convolution.

How to add one:

1. A file beside these with three functions, `fits(x)`, `forward(given)` and `backward(given, grad_out, want_y)`, as
   `registry.Kernel` describes them. What they read, and its shapes, is `couplings.Arguments`; `pytorch.py` is the
   shortest example, and computes what any other must. The file imports no other kernel, neither the registry nor the
   convolution; where a library is missing or too old, importing it raises ImportError.
2. A row in `registry.KERNELS`: name, module, what it works on, what it is. With it `device.kernel` of a spec,
   `Model.use_kernel`, `atomica-run --list` and the schema know the name.
3. No test of its own: those of tests/unit/test_kernels.py run over the registry, and compare each kernel that fits
   the machine with the textbook form, gradients and second derivatives included.

A kernel has no parameters and no state but tables that it keeps for a `Couplings`. It is given no second derivatives
to compute: the convolution takes them from PyTorch's operations.
"""
