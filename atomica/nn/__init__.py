"""The network: encoders, and what they are made of: irreps, couplings, the convolution and its kernels.

How to add an encoder (`invariant.py` is the example, in DGL's message passing):

1. A file with two classes. Settings: a frozen dataclass that derives from `encoding.EncoderSettings` and adds what is
   its own, each field made with `spec.setting`. The encoder derives from `encoding.Encoder`, names the settings as
   `Config`, is decorated with `@encoders.register("KIND")`, and turns `GraphInputs` into an `Encoding`: rows of unit
   length for atoms, blocks and complexes. The first line of its docstring is what `atomica-run --list` says of it.
   `GraphInputs` holds index tensors of the same heterograph as `atomica.graph` gives, already on the device; who wants
   a DGL graph makes one of them, `from atomica.data.graph import dgl`.
2. For heads that need "detail" (denoising): the method `detailed`, `detail_layout` in the settings, which also list it
   under `serves`; with the features of blocks and `block_layout` also "invariants", which the readout "z" needs; with
   the method `pool` also "interface". Without them such heads refuse the encoder, and say why.
3. A row in `encoders.BUILT_IN`; for an encoder of another package an entry point of the group `atomica.encoders`
   instead, which names the module to import:

       [project.entry-points."atomica.encoders"]
       mine = "my_package.my_encoder"

   With it `[model] kind = "KIND"` of a spec, its settings there, saved models, `--list` and `--schema` know it.
4. No test of its own for what all encoders must do: tests/unit/test_heads.py runs over `encoders.BUILT_IN` with every
   head, and `atomica.testing.check_model(small_model(encoder="KIND"))` checks that outputs depend on a complex alone,
   and not on its place, its orientation, the order of its atoms or its batch, and that gradients are right.

How to add a kernel is at the top of `atomica.nn.kernels`.
"""
