"""Data sets that come with the package; open one with `atomica.open_dataset("demo://NAME")`.

`pockets` asks of a patch of protein surface, its partner removed, whether it binds a nucleic acid or another
protein. `atomica.demo.build` makes it from public-domain entries of the Protein Data Bank (PDB).
"""
