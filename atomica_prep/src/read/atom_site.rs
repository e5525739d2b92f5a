//! The columns of `_atom_site` that are read, for both forms of CIF.

use crate::error::{Error, Result};

/// A column, as an index into [`ITEMS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    X,
    Y,
    Z,
    Group,
    Symbol,
    AuthAtom,
    LabelAtom,
    AltLoc,
    AuthComp,
    LabelComp,
    AuthChain,
    LabelChain,
    AuthSeq,
    LabelSeq,
    Icode,
    Occupancy,
    Model,
    BFactor,
}

/// All columns with their names, in the order of [`Item`].
pub(super) const ITEMS: [(Item, &str); 18] = [
    (Item::X, "Cartn_x"),
    (Item::Y, "Cartn_y"),
    (Item::Z, "Cartn_z"),
    (Item::Group, "group_PDB"),
    (Item::Symbol, "type_symbol"),
    (Item::AuthAtom, "auth_atom_id"),
    (Item::LabelAtom, "label_atom_id"),
    (Item::AltLoc, "label_alt_id"),
    (Item::AuthComp, "auth_comp_id"),
    (Item::LabelComp, "label_comp_id"),
    (Item::AuthChain, "auth_asym_id"),
    (Item::LabelChain, "label_asym_id"),
    (Item::AuthSeq, "auth_seq_id"),
    (Item::LabelSeq, "label_seq_id"),
    (Item::Icode, "pdbx_PDB_ins_code"),
    (Item::Occupancy, "occupancy"),
    (Item::Model, "pdbx_PDB_model_num"),
    (Item::BFactor, "B_iso_or_equiv"),
];

/// Where one of each pair will do.
const NEEDED: [(Item, Item); 7] = [
    (Item::X, Item::X),
    (Item::Y, Item::Y),
    (Item::Z, Item::Z),
    (Item::AuthAtom, Item::LabelAtom),
    (Item::AuthComp, Item::LabelComp),
    (Item::AuthChain, Item::LabelChain),
    (Item::AuthSeq, Item::LabelSeq),
];

impl Item {
    /// The column of this name, in upper or lower case.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        ITEMS.iter().find(|(_, known)| known.as_bytes().eq_ignore_ascii_case(name)).map(|(item, _)| *item)
    }

    pub(super) fn name(self) -> &'static str {
        ITEMS.get(self as usize).map_or("", |(_, name)| name)
    }
}

/// An error that names all columns that are needed and not there. `line`: where the table begins, in a text.
pub(super) fn check(has: impl Fn(Item) -> bool, shown: &str, line: Option<u64>) -> Result<()> {
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(one, other)| !has(*one) && !has(*other))
        .map(|(one, other)| match one == other {
            true => one.name().to_owned(),
            false => format!("{} or {}", one.name(), other.name()),
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::MissingColumns { path: shown.to_owned(), line, missing: missing.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_indices_into_the_names() {
        for (index, (item, name)) in ITEMS.iter().enumerate() {
            assert_eq!((*item as usize, item.name()), (index, *name));
            assert_eq!(Item::named(name.to_ascii_uppercase().as_bytes()), Some(*item));
        }
        assert_eq!(Item::named(b"id"), None);
    }
}
