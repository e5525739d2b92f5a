//! A structure in memory: flat columns of atoms, residues as runs of them, and what was mended to read it.

use strum::IntoStaticStr;

pub use crate::accounts::{Accounts, Unread};
use crate::error::Problem;

/// Which copies of its chains a structure is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assembly {
    /// Those that the file has coordinates of.
    #[default]
    None,
    /// Those of its models, which are copies of one another and not conformers (PDB files).
    Models,
    /// Those of a biological assembly, by its number.
    Number(u32),
}

impl std::str::FromStr for Assembly {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "models" => Ok(Self::Models),
            _ => text.parse().map(Self::Number).map_err(|_| {
                format!("{text:?}: expected the number of a biological assembly, or models, where models are copies")
            }),
        }
    }
}

/// A short name (atom name, component id, insertion code): up to 15 bytes, held in place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Name {
    bytes: [u8; 15],
    length: u8,
}

impl Name {
    /// Most bytes a name can have.
    pub const CAPACITY: usize = 15;

    /// Copies the bytes; `None` if they are too many or not UTF-8.
    ///
    /// ```
    /// use atomica_prep::structure::Name;
    /// assert_eq!(Name::new(b"CA").map(|n| n.as_str().to_owned()).as_deref(), Some("CA"));
    /// assert!(Name::new(b"sixteen bytes it is").is_none());
    /// ```
    pub fn new(text: &[u8]) -> Option<Self> {
        if !text.is_ascii() && std::str::from_utf8(text).is_err() {
            return None;
        }
        let mut bytes = [0u8; Self::CAPACITY];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        Some(Self { bytes, length: u8::try_from(text.len()).ok()? })
    }

    /// The name of a short word (see `read::number`) that holds ASCII only.
    #[inline]
    pub(crate) fn of_short(word: u64, length: u8) -> Self {
        let mut bytes = [0u8; Self::CAPACITY];
        if let Some(first) = bytes.first_chunk_mut::<8>() {
            *first = word.to_le_bytes();
        }
        Self { bytes, length }
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// All of a name of up to seven bytes, its length behind them.
    #[inline]
    pub(crate) fn short(&self) -> Option<u64> {
        let word = self.bytes.first_chunk().copied().map_or(0, u64::from_le_bytes);
        (self.length < 8).then_some(word | u64::from(self.length) << 56)
    }

    /// Eight bytes that equal names have in common, and most different ones have not.
    #[inline]
    pub(crate) fn word(&self) -> u64 {
        let first = self.bytes.first_chunk().copied().map_or(0, u64::from_le_bytes);
        let last = self.bytes.last_chunk().copied().map_or(0, u64::from_le_bytes);
        first ^ last.rotate_left(5)
    }

    /// No bytes?
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

/// One residue: a run of atoms, and who it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Residue {
    /// Its first atom.
    pub start: usize,
    /// One past its last atom.
    pub end: usize,
    /// Component id.
    pub name: Name,
    /// Index into [`Structure::chains`].
    pub chain: usize,
    /// Author's residue number.
    pub resnum: i32,
    /// Insertion code, mostly empty.
    pub icode: Name,
    /// Written as a hetero group.
    pub hetero: bool,
    /// What the file says about being part of a polymer, if it says it.
    pub polymer: Option<bool>,
    /// Follows the record that ends its chain.
    pub after_ter: bool,
}

/// The first model of a structure after the choice of alternate locations. Coordinates are in Å.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Structure {
    /// Coordinates.
    pub positions: Vec<[f64; 3]>,
    /// Atomic numbers; deuterium is 1, unknown 0.
    pub elements: Vec<u8>,
    /// Atom names.
    pub atom_names: Vec<Name>,
    /// Residues, in file order; their atom runs follow one another without a gap.
    pub residues: Vec<Residue>,
    /// Author's chain ids in order of appearance.
    pub chains: Vec<String>,
    /// Modified residues and the standard ones that the file derives them from.
    pub parents: Vec<(Name, Name)>,
    /// Covalent bonds between residues that the file states, as pairs of atoms; each is there from both ends, ascending.
    pub bonds: Vec<(usize, usize)>,
    /// What was mended to read it.
    pub repairs: Repairs,
    /// What became of the file's coordinate records.
    pub accounts: Accounts,
}

impl Structure {
    /// Coordinates of one residue's atoms.
    pub fn positions_of(&self, residue: &Residue) -> &[[f64; 3]] {
        self.positions.get(residue.start..residue.end).unwrap_or_default()
    }

    /// Atomic numbers of one residue's atoms.
    pub fn elements_of(&self, residue: &Residue) -> &[u8] {
        self.elements.get(residue.start..residue.end).unwrap_or_default()
    }

    /// Names of one residue's atoms.
    pub fn names_of(&self, residue: &Residue) -> &[Name] {
        self.atom_names.get(residue.start..residue.end).unwrap_or_default()
    }

    /// The stated bonds of one residue: its own atom first.
    pub(crate) fn bonds_of(&self, residue: &Residue) -> &[(usize, usize)] {
        let before = |atom: usize| self.bonds.partition_point(|(own, _)| *own < atom);
        self.bonds.get(before(residue.start)..before(residue.end)).unwrap_or_default()
    }

    /// The residue of an atom.
    pub(crate) fn residue_of(&self, atom: usize) -> usize {
        self.residues.partition_point(|residue| residue.end <= atom)
    }

    /// An atom as a record and `discovered.csv` name it: `A:145 CYS SG`.
    pub(crate) fn who(&self, atom: usize) -> String {
        let Some(of) = self.residues.get(self.residue_of(atom)) else { return String::new() };
        let chain = self.chains.get(of.chain).map_or("", String::as_str);
        let name = self.atom_names.get(atom).copied().unwrap_or_default();
        format!("{chain}:{}{} {} {}", of.resnum, of.icode.as_str(), of.name.as_str(), name.as_str())
    }
}

/// A structure file that has been read: what it holds, and the checksum of its bytes.
#[derive(Debug, Clone)]
pub struct Source {
    /// The structure.
    pub structure: Structure,
    /// SHA-256 of the file as it is on disk, hex.
    pub sha256: String,
}

/// One kind of repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Repair {
    /// No element, or none that can be believed: guessed from the atom's name.
    ElementGuessed,
    /// No occupancy, or none that is a number: taken to be 1.
    OccupancyAssumed,
    /// Text where the charge belongs that is none: not used.
    ChargeIgnored,
    /// A serial number that is not decimal (hybrid-36, hexadecimal, asterisks): not used, nor is any other.
    SerialIgnored,
    /// A residue number in hybrid-36: A000 is 10000.
    NumberHybrid36,
    /// A residue number in hexadecimal, as some programs go on after 9999.
    NumberHexadecimal,
    /// A residue number of five digits, the last of them in the column of the insertion code.
    NumberFiveDigits,
    /// No residue number: taken to be 0.
    NumberMissing,
    /// Atom names of five letters, the last of them in the column of alternate locations.
    NameFiveLetters,
    /// No residue name: taken to be UNL.
    NameMissing,
    /// No id by the author: the label is used.
    LabelForAuthor,
    /// A line that ends within its last coordinate.
    ShortLine,
    /// A record whose name is not in capitals.
    RecordCase,
    /// A model that ends without having begun.
    ModelNotBegun,
    /// A model that does not end before the next one begins.
    ModelNotEnded,
    /// Atoms after the record that ends the file.
    AtomsAfterEnd,
    /// A residue that goes on after others: its runs of atoms are joined.
    ResidueSplit,
    /// Atom names more than once in a residue, in molecules of their own: taken for copies.
    CopiesParted,
    /// Atom names more than once in a residue, in one place without alternate locations: the first are kept.
    CopiesOverlap,
    /// Alternate locations with and without a letter: those without are one of them.
    AltlocBlank,
    /// Alternate locations whose occupancies differ in the third digit only: the first is taken.
    AltlocTie,
    /// An atom of a query or an attachment point, of no one element: unknown.
    QueryAtom,
    /// A lone pair or a dummy: left out.
    NoAtom,
    /// Atoms at the origin, or at 9999, for want of a place: left out.
    NoPlace,
    /// A residue of a polymer under a name of force fields: taken for the standard one.
    ForceFieldName,
    /// A modified residue: taken for its parent.
    ModifiedResidue,
    /// A residue of a polymer under an unknown name: taken for the one whose atoms it has.
    ResidueByAtoms,
    /// A residue of a polymer that neither name nor atoms tell: a block of unknown type.
    ResidueUnknown,
    /// A lone oxygen under another name than water's: taken for water.
    WaterByAtoms,
    /// An amino acid or nucleotide that is written as part of a polymer and bonded to nothing: taken for a ligand.
    FreeResidue,
    /// Beads of a coarse-grained model: left out.
    CoarseGrained,
    /// A first model after the atoms that it goes with, as poses after their receptor: read with them.
    ModelContinues,
    /// The same atoms again after END: another frame, which is not read.
    FramesUnread,
    /// Atoms in another data block, which are not read.
    BlocksUnread,
    /// Chain ids of two letters, in columns 21 and 22.
    ChainTwoLetters,
    /// No chain ids, or one for several chains: the segment ids name them.
    ChainBySegment,
    /// The same, and no segment ids either: TER and steps back in numbering end chains.
    ChainByBreak,
    /// A component id that stands for one of five letters, which HETNAM tells.
    ComponentRestored,
    /// Models after the first, which are not read.
    ModelsUnread,
    /// Of these, models with other atoms than the first.
    ModelsDiffer,
    /// Molecules of a ligand file after the first, where the index names none.
    MoleculesUnread,
    /// Water, or residues of the receptor, in the file of a ligand: left out.
    OutsideLigand,
    /// Bonds that the file of a ligand leaves out, or all of them: those by distance are used.
    BondsMissing,
    /// A part of a ligand that is bonded to nothing and far from all of it.
    PartsApart,
    /// A ligand whose file says no bond orders, and nothing else tells them: a block for each of its atoms.
    OrdersUnknown,
    /// A ligand whose bond orders were perceived with hydrogens of carbon that its file leaves out.
    HydrogensInferred,
    /// A bond is stated of atoms that are too far apart for it: not used.
    BondImplausible,
    /// A bond is stated of an atom that is not there.
    BondUnmatched,
    /// CONECT where serial numbers repeat, overflow or are those of other atoms: not used.
    ConectIgnored,
    /// A chain whose next residue by number is farther away than the chain would reach: it may be two.
    ChainInterrupted,
}

impl Repair {
    /// Is the file as it should be, and only more than is read of it? Strict reading takes such files.
    pub fn is_note(self) -> bool {
        matches!(
            self,
            Self::AltlocTie
                | Self::ModelsUnread
                | Self::ModelsDiffer
                | Self::MoleculesUnread
                | Self::OutsideLigand
                | Self::BondsMissing
                | Self::PartsApart
                | Self::OrdersUnknown
                | Self::HydrogensInferred
                | Self::BondUnmatched
                | Self::ChainInterrupted
        )
    }

    /// Its name in lists.
    pub fn code(self) -> &'static str {
        self.into()
    }
}

/// The repairs of one kind in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Which kind.
    pub kind: Repair,
    /// How many.
    pub count: u64,
    /// The first one: its place, what was found there and what was made of it.
    pub first: Problem,
}

/// What was mended in one file, kinds in the order of [`Repair`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repairs(pub(crate) Vec<Repaired>);

impl Repairs {
    /// The kinds that were met.
    pub fn iter(&self) -> impl Iterator<Item = &Repaired> {
        self.0.iter()
    }

    /// Counts some of a kind; `place` says where and what, and is asked only for the first.
    pub(crate) fn add(&mut self, kind: Repair, count: u64, place: impl FnOnce() -> Problem) {
        match self.0.binary_search_by_key(&kind, |known| known.kind) {
            Ok(at) => {
                if let Some(known) = self.0.get_mut(at) {
                    known.count += count;
                }
            }
            Err(at) => self.0.insert(at, Repaired { kind, count, first: place() }),
        }
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
