"""Write parents.tsv: modified residues and the standard ones that the component dictionary derives them from.

    python atomica_prep/data/parents.py

The dictionary is that of the installed Biotite; the crate holds the table as data, since Rust cannot ask it.
"""

from __future__ import annotations

from pathlib import Path

from biotite.structure.info.ccd import get_ccd

STANDARD = {
    "GLY",
    "ALA",
    "VAL",
    "LEU",
    "ILE",
    "PHE",
    "TRP",
    "TYR",
    "ASP",
    "HIS",
    "ASN",
    "GLU",
    "LYS",
    "GLN",
    "MET",
    "ARG",
    "SER",
    "THR",
    "CYS",
    "PRO",
    "DA",
    "DG",
    "DC",
    "DT",
    "A",
    "G",
    "C",
    "U",
}


# Amino acids of the genetic code for which the dictionary names no parent.
GENETIC = {"SEC": "CYS", "PYL": "LYS"}


def parents() -> dict[str, str]:
    """Component → its parent, for components that link into polymers and have one standard parent."""
    columns = get_ccd()["chem_comp"]
    names, stated, kinds = (columns[key].as_array(str) for key in ("id", "mon_nstd_parent_comp_id", "type"))
    return GENETIC | {
        str(name): str(parent)
        for name, parent, kind in zip(names, stated, kinds, strict=True)
        if parent in STANDARD and name not in STANDARD and ("linking" in kind.lower() or "terminus" in kind)
    }


if __name__ == "__main__":
    lines = [f"{name}\t{parent}\n" for name, parent in sorted(parents().items())]
    Path(__file__).with_name("parents.tsv").write_text("".join(lines), encoding="ascii")
