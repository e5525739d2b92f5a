//! Every record of an atom in a file, and the same file with other B-factors.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::structure::Structure;

/// The records of atoms in a file, one after the other: those of all models and all alternate locations.
#[derive(Debug)]
pub struct Sites {
    /// Every record as an atom of its own, in file order, in residues named as [`super::read_file`] names them.
    pub structure: Structure,
    /// Is it of the first model?
    pub first_model: Vec<bool>,
    /// Is it an alternate location?
    pub alternate: Vec<bool>,
    /// Å²; NaN where the file says none.
    pub b_factors: Vec<f64>,
    text: Vec<u8>,
    places: Places,
}

/// Where the B-factors of a file are written, in bytes of its text.
#[derive(Debug)]
pub(super) enum Places {
    /// Columns 61 to 66 of every line, and the blanks that a shorter line lacks before them.
    Columns(Vec<(Range<usize>, usize)>),
    /// Values of a table.
    Words(Vec<Range<usize>>),
    /// A table without such a column: where the names of its columns end, and where each of its rows does.
    Missing(usize, Vec<usize>),
    /// What the bytes before a packed column become, and the place of both.
    Packed(Range<usize>, Vec<u8>),
}

impl Sites {
    pub(super) fn new(
        (structure, alternate): (Structure, Vec<bool>),
        first_model: Vec<bool>,
        b_factors: Vec<f64>,
        text: &[u8],
        places: Places,
    ) -> Self {
        Self { structure, first_model, alternate, b_factors, text: text.to_vec(), places }
    }

    /// Least and largest number that fits into six columns with two decimals.
    pub const RANGE: (f64, f64) = (-99.99, 999.99);

    /// The file, unpacked, with other B-factors, one for each record; all else stays as it is, byte for byte.
    ///
    /// # Errors
    /// There are more or fewer values than records, or one is beyond [`Self::RANGE`] or no number.
    pub fn with_b_factors(&self, values: &[f64]) -> Result<Vec<u8>> {
        let usage = |message: String| Err(Error::Usage { message });
        if values.len() != self.b_factors.len() {
            return usage(format!("{} B-factors for {} records of atoms", values.len(), self.b_factors.len()));
        }
        let (least, largest) = Self::RANGE;
        if let Some(wrong) = values.iter().find(|v| !(least..=largest).contains(*v)) {
            return usage(format!(
                "{wrong} is no B-factor: expected {least} to {largest}, which fit into every format"
            ));
        }
        let mut out = Vec::with_capacity(self.text.len() + 8 * values.len());
        let mut done = 0;
        let mut put = |at: &Range<usize>, new: &[u8]| {
            out.extend_from_slice(self.text.get(done..at.start).unwrap_or_default());
            out.extend_from_slice(new);
            done = at.end;
        };
        match &self.places {
            Places::Columns(places) => {
                for ((at, missing), value) in places.iter().zip(values) {
                    put(at, format!("{:missing$}{value:6.2}", "").as_bytes());
                }
            }
            Places::Words(places) => {
                for (at, value) in places.iter().zip(values) {
                    put(at, format!("{value:.2}").as_bytes());
                }
            }
            Places::Missing(names, rows) => {
                put(&(*names..*names), b"\n_atom_site.B_iso_or_equiv");
                for (end, value) in rows.iter().zip(values) {
                    let after = self.text.get(*end).is_none_or(u8::is_ascii_whitespace);
                    put(&(*end..*end), format!(" {value:.2}{}", if after { "" } else { " " }).as_bytes());
                }
            }
            Places::Packed(at, before) => put(at, &[before.as_slice(), &packed_column(values)].concat()),
        }
        out.extend_from_slice(self.text.get(done..).unwrap_or_default());
        Ok(out)
    }
}

/// A column of B-factors of a BinaryCIF file, in single precision.
fn packed_column(values: &[f64]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
    // A map of three: its members have a length of less than 32, but for the data. 32 is the type of floats.
    let mut out = b"\x83\xa4name\xaeB_iso_or_equiv\xa4mask\xc0\xa4data\x82\xa8encoding\x91".to_vec();
    out.extend(b"\x82\xa4kind\xa9ByteArray\xa4type\x20\xa4data\xc6");
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out
}
