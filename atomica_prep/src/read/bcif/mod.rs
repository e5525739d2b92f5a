//! BinaryCIF: `_atom_site` of the first block that has one.
//!
//! No length in the file is trusted. Three bytes make a row at most, and no column has more texts than rows, so that
//! memory stays below 400 times the size of the file, whatever it claims; `tests/memory.rs` measures it.

mod encoding;
mod pack;
#[cfg(test)]
mod written;

use std::borrow::Cow;
use std::collections::HashMap;

use self::encoding::{decode, Values};
use self::pack::{Decoded, Head, Value};
use super::assembly::{self, Described};
use super::atom_site::{self, Item, ITEMS};
use super::builder::{add_parent, infer_element, Builder, ResidueKey, LARGEST};
use super::links;
use super::mmcif;
use super::models::{self, Atoms};
use super::no_atom;
use super::notes::Notes;
use super::options::{Ids, Options};
use super::sites::{Places, Sites};
use crate::accounts::Unread;
use crate::error::{quote, Error, Problem, Problems, Result};
use crate::structure::{Name, Repair, Structure};
use crate::vocab;

/// Texts of a column; -1 where there is none.
#[derive(Debug, Default)]
struct Texts<'a> {
    table: Vec<Cow<'a, [u8]>>,
    rows: Vec<i32>,
}

impl Texts<'_> {
    #[inline]
    fn at(&self, row: usize) -> Option<&[u8]> {
        self.table.get(usize::try_from(*self.rows.get(row)?).ok()?).map(|t| &**t)
    }

    #[inline]
    fn entry(&self, row: usize) -> Option<usize> {
        usize::try_from(*self.rows.get(row)?).ok()
    }
}

/// A row of a file takes as many bytes at least: its coordinates differ from those of the row before.
const ROW_BYTES: usize = 3;

/// Bytes that a row counts as against the limit of what a file may unpack to.
const ROW_COST: u64 = 64;

/// The raw columns, and for each one the mask: not 0 where there is no value.
struct Columns<'a> {
    shown: &'a str,
    rows: usize,
    found: [Option<(Values<'a>, Option<Vec<i32>>)>; ITEMS.len()],
}

impl<'a> Columns<'a> {
    fn wrong(&self, item: Item, reason: String) -> Error {
        let name = item.name();
        broken(self.shown, format!("_atom_site.{name}"), reason)
    }

    fn take(&mut self, item: Item) -> Option<(Values<'a>, Option<Vec<i32>>)> {
        self.found.get_mut(item as usize).and_then(Option::take)
    }

    fn has(&self, item: Item) -> bool {
        self.found.get(item as usize).is_some_and(Option::is_some)
    }

    fn texts(&mut self, item: Item) -> Result<Texts<'a>> {
        let Some((values, mask)) = self.take(item) else { return Ok(Texts::default()) };
        let mut texts = match values {
            Values::Texts(table, rows) => Texts { table, rows },
            Values::Ints(values) => by_value(&values, |v| *v, i32::to_string),
            Values::Floats(values) => by_value(&values, |v| v.to_bits(), f64::to_string),
            Values::Bytes(_) => return Err(self.wrong(item, "has no encoding".to_owned())),
        };
        // Writers without masks write what a text file would have.
        let nothing: Vec<bool> =
            texts.table.iter().map(|t| t.is_empty() || (mask.is_none() && matches!(&**t, b"." | b"?"))).collect();
        if nothing.contains(&true) {
            for row in &mut texts.rows {
                if usize::try_from(*row).ok().and_then(|r| nothing.get(r)).is_some_and(|n| *n) {
                    *row = -1;
                }
            }
        }
        for (row, masked) in texts.rows.iter_mut().zip(mask.iter().flatten()) {
            if *masked != 0 {
                *row = -1;
            }
        }
        Ok(texts)
    }

    /// Numbers, NaN where there is none.
    fn floats(&mut self, item: Item) -> Result<Vec<f64>> {
        let Some((values, mask)) = self.take(item) else { return Ok(Vec::new()) };
        let mut numbers = match values {
            Values::Floats(values) => values,
            Values::Ints(values) => values.into_iter().map(f64::from).collect(),
            Values::Texts(table, rows) => {
                let table: Vec<f64> =
                    table.iter().map(|t| fast_float2::parse::<f64, _>(&**t).unwrap_or(f64::NAN)).collect();
                let at = |r: i32| usize::try_from(r).ok().and_then(|r| table.get(r)).copied().unwrap_or(f64::NAN);
                rows.into_iter().map(at).collect()
            }
            Values::Bytes(_) => return Err(self.wrong(item, "has no encoding".to_owned())),
        };
        for (number, masked) in numbers.iter_mut().zip(mask.iter().flatten()) {
            if *masked != 0 {
                *number = f64::NAN;
            }
        }
        Ok(numbers)
    }
}

/// Texts of numbers, each distinct one written once.
fn by_value<T, K: Eq + std::hash::Hash>(
    values: &[T],
    key: impl Fn(&T) -> K,
    write: impl Fn(&T) -> String,
) -> Texts<'static> {
    let mut known: HashMap<K, i32> = HashMap::new();
    let mut table: Vec<Cow<'static, [u8]>> = Vec::new();
    let mut last: Option<(K, i32)> = None;
    let mut rows = Vec::with_capacity(values.len());
    for value in values {
        let this = key(value);
        match &last {
            Some((key, row)) if *key == this => rows.push(*row),
            _ => {
                let row = *known.entry(key(value)).or_insert_with(|| {
                    table.push(Cow::Owned(write(value).into_bytes()));
                    table.len() as i32 - 1
                });
                rows.push(row);
                last = Some((this, row));
            }
        }
    }
    Texts { table, rows }
}

fn broken(shown: &str, place: String, reason: String) -> Error {
    Error::BinaryCif { path: shown.to_owned(), place, reason }
}

/// What holds atoms.
const EXPECTED: &str = "rows of _atom_site";

pub(super) fn parse(bytes: &[u8], shown: &str, options: Options) -> Result<Structure> {
    let wanted = |item: Item| item != Item::BFactor;
    let Found { category, others, modified, connections } = category(bytes, shown)?;
    let columns = columns(category, wanted, bytes.len(), shown, options.max_decompressed)?;
    let mut builder = read_table(columns, others, options)?;
    let connections = connections.map_or(Ok(Vec::new()), |category| rows(category, bytes.len(), &links::ITEMS));
    for row in connections.map_err(|reason| broken(shown, "_struct_conn".to_owned(), reason))? {
        let value = |item: usize| {
            let text = row.get(*links::ITEMS.get(item)?)?.as_bytes();
            Some(text).filter(|text| !matches!(*text, b"" | b"." | b"?"))
        };
        builder.stated.named.extend(links::connection(value, options.ids).map(|ends| (0, ends)));
    }
    let mut structure = builder.finish(shown, EXPECTED)?;
    let items = ["label_comp_id", "auth_comp_id", "parent_comp_id"];
    let modified = modified.map_or(Ok(Vec::new()), |category| rows(category, bytes.len(), &items));
    for row in modified.map_err(|reason| broken(shown, "modified residues".to_owned(), reason))? {
        let value = |name: &str| row.get(name).map_or(&b""[..], |text| text.as_bytes());
        let component = if row.contains_key("label_comp_id") { "label_comp_id" } else { "auth_comp_id" };
        add_parent(&mut structure, value(component), value("parent_comp_id"));
    }
    Ok(structure)
}

/// The rows of a small category of that name, wherever in the file it is.
fn table(bytes: &[u8], wanted: &str) -> Decoded<Vec<HashMap<String, String>>> {
    let mut found = None;
    Value(bytes).over("dataBlocks", &mut |block| {
        block.over("categories", &mut |category| {
            if found.is_none() && category.need("name")?.text("name")?.eq_ignore_ascii_case(wanted.as_bytes()) {
                found = Some(category);
            }
            category.end()
        })
    })?;
    found.map_or(Ok(Vec::new()), |category| rows(category, bytes.len(), &[]))
}

/// The rows of all models.
pub(super) fn sites(bytes: &[u8], shown: &str, options: Options) -> Result<Sites> {
    let category = category(bytes, shown)?.category;
    let mut columns = columns(category, |_| true, bytes.len(), shown, options.max_decompressed)?;
    // Without the column of models, all rows are read.
    let (model, mut b_factors) = (columns.texts(Item::Model)?, columns.floats(Item::BFactor)?);
    b_factors.resize(columns.rows, f64::NAN);
    let of_first = model.rows.iter().copied().find(|m| *m >= 0);
    let of_first = (0..columns.rows).map(|row| model.rows.get(row).is_none_or(|m| *m < 0 || Some(*m) == of_first));
    let first_model: Vec<bool> = of_first.collect();
    let places = b_factor_place(category, bytes).map_err(|reason| broken(shown, "_atom_site".to_owned(), reason))?;
    let mut builder = read_table(columns, 0, options)?;
    // Models are no copies of chains.
    if !first_model.contains(&false) {
        builder.part_chains();
    }
    Ok(Sites::new(builder.records(shown, EXPECTED)?, first_model, b_factors, bytes, places))
}

/// The column of B-factors, or the head of the list of columns, to which one more is to be written.
fn b_factor_place(category: Value<'_>, bytes: &[u8]) -> Decoded<Places> {
    let from = |rest: &[u8]| bytes.len() - rest.len();
    let list = category.need("columns")?;
    let mut place = None;
    list.each("columns", |column| -> Decoded<Option<()>> {
        if Item::named(column.need("name")?.text("name")?) == Some(Item::BFactor) {
            place = Some(Places::Packed(from(column.0)..from(column.end()?), Vec::new()));
        }
        Ok(None)
    })?;
    match (place, list.head()?) {
        (Some(place), _) => Ok(place),
        (None, (Head::Array(count), first)) => {
            let count = u32::try_from(count + 1).map_err(|e| e.to_string())?;
            Ok(Places::Packed(from(list.0)..from(first), [&[0xdd], count.to_be_bytes().as_slice()].concat()))
        }
        _ => Err("columns is no list".to_owned()),
    }
}

/// What is looked for in a file.
struct Found<'a> {
    /// The first category `_atom_site`.
    category: Value<'a>,
    /// Rows of all others of that name.
    others: u64,
    /// `_pdbx_struct_mod_residue`.
    modified: Option<Value<'a>>,
    /// `_struct_conn`.
    connections: Option<Value<'a>>,
}

fn category<'a>(bytes: &'a [u8], shown: &str) -> Result<Found<'a>> {
    let found = atom_site(Value(bytes)).map_err(|reason| broken(shown, "the file".to_owned(), reason))?;
    let expected = || Error::NoAtoms { path: shown.to_owned(), expected: "a category _atom_site".to_owned() };
    found.ok_or_else(expected)
}

/// The biological assemblies that a file describes.
pub(super) fn assemblies(bytes: &[u8], shown: &str) -> Result<Described> {
    let whole = |reason: String| broken(shown, "the assembly tables".to_owned(), reason);
    let generators = table(bytes, "_pdbx_struct_assembly_gen").map_err(whole)?;
    let operators = table(bytes, "_pdbx_struct_oper_list").map_err(whole)?;
    let value = |row: &HashMap<String, String>, name: &str| row.get(name).cloned().unwrap_or_default();
    let generators: Vec<[String; 3]> = generators
        .iter()
        .map(|row| ["assembly_id", "oper_expression", "asym_id_list"].map(|name| value(row, name)))
        .collect();
    let operators = operators.iter().filter_map(|row| mmcif::operator(|name| row.get(name).cloned())).collect();
    Ok(assembly::of_tables(&generators, &operators))
}

/// The rows of a small category, values as text: of `items`, or of all where none are named. What is masked is not among
/// them.
fn rows(category: Value<'_>, limit: usize, items: &[&str]) -> Decoded<Vec<HashMap<String, String>>> {
    /// More rows than any assembly has operators.
    const MOST: usize = 100_000;
    /// Bytes that a row takes at least.
    const ROW_BYTES: usize = 32;
    let most = MOST.min(limit / ROW_BYTES);
    let mut rows: Vec<HashMap<String, String>> = Vec::new();
    category.need("columns")?.each("columns", |column| -> Decoded<Option<()>> {
        let name = column.need("name")?.text("name")?;
        if !items.is_empty() && !items.iter().any(|item| name.eq_ignore_ascii_case(item.as_bytes())) {
            return Ok(None);
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let texts: Vec<String> = match decode(column.need("data")?, limit)? {
            Values::Ints(values) => values.iter().take(most).map(i32::to_string).collect(),
            Values::Floats(values) => values.iter().take(most).map(f64::to_string).collect(),
            Values::Texts(table, places) => {
                let text = |at: &i32| usize::try_from(*at).ok().and_then(|at| table.get(at));
                let texts = places.iter().take(most).map(|at| text(at).map_or(&b""[..], |t| t));
                texts.map(|t| String::from_utf8_lossy(t).into_owned()).collect()
            }
            Values::Bytes(_) => return Ok(None),
        };
        rows.resize_with(rows.len().max(texts.len()), HashMap::new);
        let mask = column.get("mask")?.map_or(Ok(Vec::new()), |mask| decode(mask, limit)?.ints("the mask"))?;
        for (at, (row, text)) in rows.iter_mut().zip(texts).enumerate() {
            if mask.get(at).is_none_or(|masked| *masked == 0) {
                row.insert(name.clone(), text);
            }
        }
        Ok(None)
    })?;
    Ok(rows)
}

/// The categories that are read. Every value of the file is gone over, and once only.
fn atom_site(file: Value<'_>) -> Decoded<Option<Found<'_>>> {
    let (mut found, mut modified, mut connections) = (None, None, None);
    let mut others = 0u64;
    file.over("dataBlocks", &mut |block| {
        block.over("categories", &mut |category| {
            let name = category.need("name")?.text("name")?;
            if name.eq_ignore_ascii_case(b"_atom_site") {
                match found {
                    None => found = Some(category),
                    Some(_) => {
                        let rows = category.need("rowCount")?.int("rowCount")?;
                        others = others.saturating_add(u64::try_from(rows).unwrap_or(0).min(1 << 40));
                    }
                }
            } else if name.eq_ignore_ascii_case(b"_pdbx_struct_mod_residue") {
                modified = modified.or(Some(category));
            } else if name.eq_ignore_ascii_case(b"_struct_conn") {
                connections = connections.or(Some(category));
            }
            category.end()
        })
    })?;
    Ok(found.map(|category| Found { category, others, modified, connections }))
}

fn columns<'a>(
    category: Value<'a>,
    wanted: impl Fn(Item) -> bool,
    limit: usize,
    shown: &'a str,
    memory: u64,
) -> Result<Columns<'a>> {
    let wrong = |reason: String| broken(shown, "_atom_site".to_owned(), reason);
    let rows = category.need("rowCount").and_then(|r| r.int("rowCount")).map_err(wrong)?;
    let rows = usize::try_from(rows).ok().filter(|r| *r <= limit / ROW_BYTES).ok_or_else(|| {
        wrong(format!("rowCount is {rows}, but the file has {limit} bytes; a row takes {ROW_BYTES} at least"))
    })?;
    if rows as u64 > memory / ROW_COST {
        let what = format!("has {rows} rows of {ROW_COST} bytes, which is");
        return Err(Error::Oversized { path: shown.to_owned(), what, limit: memory });
    }
    let mut columns = Columns { shown, rows, found: [const { None }; ITEMS.len()] };
    // The place of what goes wrong; the columns are walked through only once.
    let mut place = "_atom_site".to_owned();
    let read = |column: Value<'a>| -> Decoded<Option<()>> {
        "_atom_site".clone_into(&mut place);
        let name = column.need("name")?.text("name")?;
        let Some(item) = Item::named(name).filter(|item| wanted(*item)) else { return Ok(None) };
        place = format!("_atom_site.{}", item.name());
        let values = decode(column.need("data")?, limit)?;
        let mask = match column.get("mask")? {
            None => None,
            Some(mask) => Some(decode(mask, limit)?.ints("the mask")?),
        };
        let lengths = [Some(values.len()), mask.as_ref().map(Vec::len)];
        if let Some(length) = lengths.into_iter().flatten().find(|l| *l != rows) {
            return Err(format!("has {length} values; rowCount says {rows}"));
        }
        if let Some(slot) = columns.found.get_mut(item as usize) {
            *slot = Some((values, mask));
        }
        Ok(None)
    };
    let walked = category.need("columns").and_then(|list| list.each("columns", read));
    walked.map_err(|reason| broken(shown, place, reason))?;
    Ok(columns)
}

/// A problem of one row.
fn problem(problems: &mut Problems, item: Item, row: usize, what: &str) {
    let name = item.name();
    let what = format!("_atom_site.{name}, row {}: {what}", row + 1);
    problems.push(Problem { line: 0, column: 0, column_end: 0, what });
}

fn repair(notes: &mut Notes, kind: Repair, item: Item, row: usize, what: impl FnOnce() -> String) {
    let name = item.name();
    let what = || format!("_atom_site.{name}, row {}: {}", row + 1, what());
    notes.repair(kind, || Problem { line: 0, column: 0, column_end: 0, what: what() });
}

fn read_table(mut columns: Columns<'_>, others: u64, options: Options) -> Result<Builder> {
    let shown = columns.shown;
    atom_site::check(|item| columns.has(item), shown, None)?;
    let rows = columns.rows;
    let knows_label_seq = columns.has(Item::LabelSeq);
    let xyz = [columns.floats(Item::X)?, columns.floats(Item::Y)?, columns.floats(Item::Z)?];
    let occupancy = columns.floats(Item::Occupancy)?;
    // Of a pair, the wanted ids come first.
    let ids = options.ids;
    let [atom_items, comp_items] =
        [[Item::AuthAtom, Item::LabelAtom], [Item::AuthComp, Item::LabelComp]].map(|pair| ids.order(pair));
    let [chain_items, seq_items] =
        [[Item::AuthChain, Item::LabelChain], [Item::AuthSeq, Item::LabelSeq]].map(|pair| ids.order(pair));
    let mut pair = |[wanted, other]: [Item; 2]| Ok([columns.texts(wanted)?, columns.texts(other)?]);
    let (atoms, comps, chains, seqs) = (pair(atom_items)?, pair(comp_items)?, pair(chain_items)?, pair(seq_items)?);
    let label_seq = if ids == Ids::Label { &seqs[0] } else { &seqs[1] };
    let (icode, group) = (columns.texts(Item::Icode)?, columns.texts(Item::Group)?);
    let (symbol, altloc) = (columns.texts(Item::Symbol)?, columns.texts(Item::AltLoc)?);
    let model = columns.texts(Item::Model)?;
    let first_model = model.rows.iter().copied().find(|m| *m >= 0);
    // A residue begins where anything that tells it from the one before changes.
    let mut begins = vec![false; rows];
    if let Some(first) = begins.first_mut() {
        *first = true;
    }
    let tell = [&comps[0], &comps[1], &chains[0], &chains[1], &seqs[0], &seqs[1], &icode, &group, &model];
    for texts in tell {
        let next = texts.rows.get(1..).unwrap_or_default();
        for ((a, b), begin) in texts.rows.iter().zip(next).zip(begins.get_mut(1..).unwrap_or_default()) {
            *begin |= a != b;
        }
    }
    let names = atoms.each_ref().map(|t| t.table.iter().map(|n| Name::new(n)).collect::<Vec<Option<Name>>>());
    let elements: Vec<u8> = symbol.table.iter().map(|s| vocab::element(s)).collect();
    let either = |both: &[Texts<'_>; 2], row: usize| -> Option<usize> {
        both.iter().position(|texts| texts.entry(row).is_some())
    };
    let mut builder = Builder::new(rows, options);
    builder.accounts.records = rows as u64;
    let mut unread = 0u64;
    let mut component: Option<Name> = None;
    for (row, begin) in begins.into_iter().enumerate() {
        let in_model = model.rows.get(row).is_none_or(|m| *m < 0 || Some(*m) == first_model);
        if !in_model {
            unread += 1;
            continue;
        }
        if begin {
            component = None;
            let which = either(&comps, row).unwrap_or(0);
            let comp = comps.get(which).and_then(|t| t.at(row)).unwrap_or_default();
            let Some(name) = Name::new(comp) else {
                let item = comp_items.get(which).copied().unwrap_or(Item::LabelComp);
                let what = format!("component id {} is longer than {} bytes", quote(comp), Name::CAPACITY);
                problem(&mut builder.notes.problems, item, row, &what);
                continue;
            };
            let chain = either(&chains, row).and_then(|w| chains.get(w)).and_then(|t| t.at(row)).unwrap_or_default();
            let Ok(chain) = std::str::from_utf8(chain) else {
                problem(
                    &mut builder.notes.problems,
                    Item::AuthChain,
                    row,
                    &format!("chain id {} is not text", quote(chain)),
                );
                continue;
            };
            let resnum = match either(&seqs, row) {
                None => {
                    let what = || "no residue number; taken to be 0".to_owned();
                    repair(&mut builder.notes, Repair::NumberMissing, Item::AuthSeq, row, what);
                    Some(0)
                }
                Some(which) => {
                    let text = seqs.get(which).and_then(|t| t.at(row)).unwrap_or_default();
                    let number = std::str::from_utf8(text).ok().and_then(|t| t.parse::<i32>().ok());
                    if number.is_none() {
                        let item = seq_items.get(which).copied().unwrap_or(Item::AuthSeq);
                        let what = format!("residue number {} is not a whole number", quote(text));
                        problem(&mut builder.notes.problems, item, row, &what);
                    }
                    number
                }
            };
            let Some(resnum) = resnum else { continue };
            let numbered = label_seq.entry(row).is_some();
            // Insertion codes belong to the author's numbers.
            let code = icode.at(row).filter(|_| ids == Ids::Author || !numbered).unwrap_or_default();
            let Some(icode) = Name::new(code) else {
                let what = format!("insertion code {} is longer than {} bytes", quote(code), Name::CAPACITY);
                problem(&mut builder.notes.problems, Item::Icode, row, &what);
                continue;
            };
            for (both, item) in [(&chains, Item::AuthChain), (&seqs, Item::AuthSeq)] {
                if let Some(label) = both[1].at(row).filter(|_| ids == Ids::Author && both[0].entry(row).is_none()) {
                    let what = || format!("no id by the author; the label {} is used", quote(label));
                    repair(&mut builder.notes, Repair::LabelForAuthor, item, row, what);
                }
            }
            let hetero = group.at(row).is_some_and(|g| g.eq_ignore_ascii_case(b"HETATM"));
            let polymer = knows_label_seq.then_some(numbered);
            builder.residue(ResidueKey { name, chain, resnum, icode, hetero, polymer, after_ter: false, line: 0 });
            component = Some(name);
        }
        // The residue could not be read, which has been said.
        let Some(component) = component else { continue };
        let mut position = [0.0; 3];
        let mut known = true;
        for ((out, column), item) in position.iter_mut().zip(&xyz).zip([Item::X, Item::Y, Item::Z]) {
            match column.get(row).copied().filter(|v| v.abs() < LARGEST) {
                Some(value) => *out = value,
                None => {
                    problem(&mut builder.notes.problems, item, row, "is not a number");
                    known = false;
                    break;
                }
            }
        }
        if !known {
            continue;
        }
        let which = either(&atoms, row).unwrap_or(0);
        let entry = atoms.get(which).and_then(|t| t.entry(row));
        let name = match entry.and_then(|e| names.get(which).and_then(|n| n.get(e))) {
            Some(Some(name)) => *name,
            None => Name::default(),
            Some(None) => {
                let item = atom_items.get(which).copied().unwrap_or(Item::LabelAtom);
                problem(
                    &mut builder.notes.problems,
                    item,
                    row,
                    &format!("the name is longer than {} bytes", Name::CAPACITY),
                );
                continue;
            }
        };
        let element = match symbol.entry(row).map(|e| elements.get(e).copied().unwrap_or(0)) {
            Some(element) if element != 0 || symbol.at(row) == Some(b"X") => element,
            _ if symbol.at(row).is_some_and(no_atom::is_symbol) => {
                builder.no_atoms.push(builder.atoms());
                0
            }
            _ => {
                let element = infer_element(name.as_bytes(), false, component);
                repair(&mut builder.notes, Repair::ElementGuessed, Item::Symbol, row, || {
                    let found = quote(symbol.at(row).unwrap_or_default());
                    format!("{found} is no element; {} by the atom name {:?}", vocab::symbol(element), name)
                });
                element
            }
        };
        let letter = altloc.at(row).and_then(|a| a.first().copied()).unwrap_or(0);
        let weight = occupancy.get(row).copied().filter(|o| o.is_finite()).unwrap_or_else(|| {
            let what = || "no occupancy; taken to be 1".to_owned();
            repair(&mut builder.notes, Repair::OccupancyAssumed, Item::Occupancy, row, what);
            1.0
        });
        builder.atom(name, element, position, weight, letter);
    }
    for (kind, count, what) in
        [(Repair::ModelsUnread, unread, "models after the first"), (Repair::BlocksUnread, others, "other data blocks")]
    {
        if count > 0 {
            let what = format!("{count} atoms of {what} are not read");
            builder.notes.repairs(kind, count, || Problem { line: 0, column: 0, column_end: 0, what });
        }
    }
    if unread > 0 {
        let telling = [&comps, &chains, &seqs, &atoms].map(|both| both.each_ref()).into_iter().flatten();
        let telling: Vec<&Texts<'_>> = telling.chain([&icode, &group, &altloc]).collect();
        let mut models = vec![Atoms::default(); model.table.len()];
        for (row, own) in model.rows.iter().enumerate() {
            // Without a model it is one of the first.
            let own = usize::try_from(*own).ok().or(first_model.and_then(|first| usize::try_from(first).ok()));
            if let Some(atoms) = own.and_then(|own| models.get_mut(own)) {
                let words = telling.iter().map(|texts| texts.rows.get(row).map_or(0, |entry| *entry as u64));
                atoms.add(words.fold(0, models::mix));
            }
        }
        let first = first_model.and_then(|own| models.get(usize::try_from(own).ok()?)).copied().unwrap_or_default();
        let others = models.into_iter().filter(|atoms| atoms.count > 0).map(|atoms| (atoms, 0));
        models::note(&mut builder.notes, first, others);
    }
    builder.accounts.leave(Unread::OtherModel, unread);
    builder.accounts.unread(Unread::OtherBlock, others);
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::written::Pack::{self, Int, List, Map, Nil, Text};
    use super::written::{byte_array_of, data, texts};
    use super::*;

    /// Two atoms, the second of them without an author's chain.
    fn file(change: impl Fn(&str) -> Option<Pack<'static>>) -> Vec<u8> {
        let (names, rows) = texts(&[0, 2, 3], &[0, 1]);
        let column = |name: &'static str, values: Pack<'static>, mask: Pack<'static>| {
            Map(vec![("name", Text(name)), ("data", change(name).unwrap_or(values)), ("mask", mask)])
        };
        let floats = |values: [f64; 2]| data(vec![byte_array_of(33)], values.map(f64::to_le_bytes).concat());
        let plain = |values: [u8; 2]| data(vec![byte_array_of(4)], values.to_vec());
        let columns = vec![
            column("Cartn_x", floats([1.5, -2.0]), Nil),
            column("Cartn_y", floats([0.0, 1.0]), Nil),
            column("Cartn_z", floats([0.0, 1.0]), Nil),
            column("label_atom_id", data(names, rows), Nil),
            column("label_comp_id", data(texts(&[0, 1], &[]).0, vec![0, 0]), Nil),
            column("label_asym_id", plain([7, 8]), Nil),
            column("auth_asym_id", plain([1, 1]), plain([0, 1])),
            column("auth_seq_id", plain([5, 6]), Nil),
        ];
        Map(vec![(
            "dataBlocks",
            List(vec![Map(vec![(
                "categories",
                List(vec![Map(vec![("name", Text("_atom_site")), ("rowCount", Int(2)), ("columns", List(columns))])]),
            )])]),
        )])
        .bytes()
    }

    #[test]
    fn a_table_with_masks() {
        let structure = parse(&file(|_| None), "x.bcif", Options::default()).unwrap();
        assert_eq!(structure.positions, [[1.5, 0.0, 0.0], [-2.0, 1.0, 1.0]]);
        assert_eq!(structure.chains, ["1", "8"]);
        assert_eq!(structure.elements, [6, 7]);
        assert_eq!(structure.residues[1].resnum, 6);
        assert_eq!(structure.residues[0].name.as_str(), "C");
    }

    #[test]
    fn what_is_wrong_names_category_and_column() {
        let error = parse(
            &file(|n| (n == "Cartn_y").then(|| data(vec![byte_array_of(33)], vec![0; 8]))),
            "x.bcif",
            Options::default(),
        );
        let text = error.unwrap_err().to_string();
        assert!(text.contains("_atom_site.Cartn_y: has 1 values; rowCount says 2"), "{text}");
        let nan = [f64::NAN, 1.0].map(f64::to_le_bytes).concat();
        let error = parse(
            &file(|n| (n == "Cartn_z").then(|| data(vec![byte_array_of(33)], nan.clone()))),
            "x.bcif",
            Options::default(),
        );
        let error = error.unwrap_err();
        assert_eq!((error.code(), error.line()), ("BadRecords", None));
        assert!(error.to_string().contains("_atom_site.Cartn_z, row 1: is not a number"), "{error}");
        let text = |n: &str| (n == "auth_seq_id").then(|| data(texts(&[0, 2], &[]).0, vec![0, 0]));
        let error = parse(&file(text), "x.bcif", Options::default()).unwrap_err().to_string();
        assert!(error.contains("auth_seq_id, row 1: residue number \"CA\" is not a whole number"), "{error}");
    }

    #[test]
    fn a_damaged_file_never_panics() {
        let whole = file(|_| None);
        assert_eq!(parse(&[], "x.bcif", Options::default()).unwrap_err().code(), "BinaryCif");
        for end in 0..whole.len() {
            assert!(parse(&whole[..end], "x.bcif", Options::default()).is_err());
        }
        for at in 0..whole.len() {
            for value in [0, 0x7f, 0x80, 0xc1, 0xc9, 0xd8, 0xdd, 0xdf, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                let _ = parse(&changed, "x.bcif", Options::default());
            }
        }
    }
}
