//! mmCIF: a tokenizer for the whole syntax, and the `_atom_site` table of the first block that has one.

use memchr::{memchr, memchr2, memchr_iter, memmem};

use std::collections::HashMap;

use super::assembly::{self, Described, Matrix, IDENTITY};
use super::atom_site::{self, Item};
use super::builder::{add_parent, infer_element, Builder, ResidueKey, LARGEST};
use super::links;
use super::models::{self, Atoms};
use super::no_atom;
use super::number::{short_decimal, ONES};
use super::options::{Ids, Options};
use super::sites::{Places, Sites};
use super::words::{Short, Words};
use crate::accounts::Unread;
use crate::error::{quote, Error, Problem, Result};
use crate::structure::{Name, Repair, Structure};
use crate::vocab;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `data_…` or `global_`
    Block,
    /// `save_…`
    Save,
    /// `loop_`
    Loop,
    /// `_category.item`
    Tag,
    /// A value; `quoted` ones are never `.` or `?`.
    Value { quoted: bool },
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    text: &'a [u8],
    line: u64,
    column: u64,
}

/// A place in the text and the words from there on.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
    line_start: usize,
}

enum Broken {
    Quote { line: u64, column: u64 },
    TextField { line: u64 },
}

impl Broken {
    fn into_error(self, shown: &str) -> Error {
        let (line, column, reason) = match self {
            Self::Quote { line, column } => (line, Some(column), "a quoted value does not end on its line"),
            Self::TextField { line } => (line, Some(1), "a text field that begins here does not end"),
        };
        Error::Syntax { path: shown.to_owned(), line, column, reason: reason.to_owned() }
    }
}

impl<'a> Tokens<'a> {
    fn new(text: &'a [u8]) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Self { text, at: 0, line: 1, line_start: 0 }
    }

    #[inline]
    fn next(&mut self) -> std::result::Result<Option<Token<'a>>, Broken> {
        loop {
            let Some(&c) = self.text.get(self.at) else { return Ok(None) };
            match c {
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    self.line_start = self.at;
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'#' => self.at = self.line_end(),
                b';' if self.at == self.line_start => return self.text_field().map(Some),
                b'\'' | b'"' => return self.quoted(c).map(Some),
                _ => return Ok(Some(self.bare())),
            }
        }
    }

    /// Goes to the beginning of the next line if there is nothing but blanks before it; gives the text from there on.
    #[inline]
    fn next_line(&mut self) -> Option<&'a [u8]> {
        let rest = self.text.get(self.at..)?;
        let blanks = rest.iter().position(|c| !matches!(c, b' ' | b'\t' | b'\r'))?;
        if rest.get(blanks) == Some(&b'\n') {
            self.skip_line(blanks + 1);
        }
        (self.at == self.line_start).then(|| self.text.get(self.at..).unwrap_or_default())
    }

    /// Goes over `bytes` bytes, of which the last one ends the line.
    #[inline]
    fn skip_line(&mut self, bytes: usize) {
        self.at += bytes;
        self.line += 1;
        self.line_start = self.at;
    }

    fn line_end(&self) -> usize {
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at + memchr(b'\n', rest).unwrap_or(rest.len())
    }

    fn column(&self) -> u64 {
        (self.at - self.line_start) as u64 + 1
    }

    fn text_field(&mut self) -> std::result::Result<Token<'a>, Broken> {
        let line = self.line;
        let begin = self.at + 1;
        let mut at = begin;
        loop {
            let rest = self.text.get(at..).unwrap_or_default();
            let Some(end) = memchr(b'\n', rest) else { return Err(Broken::TextField { line }) };
            at += end + 1;
            self.line += 1;
            self.line_start = at;
            if self.text.get(at) == Some(&b';') {
                let text = self.text.get(begin..at - 1).unwrap_or_default();
                self.at = at + 1;
                return Ok(Token { kind: Kind::Value { quoted: true }, text, line, column: 1 });
            }
        }
    }

    fn quoted(&mut self, mark: u8) -> std::result::Result<Token<'a>, Broken> {
        let (line, column) = (self.line, self.column());
        let begin = self.at + 1;
        let mut at = begin;
        loop {
            let rest = self.text.get(at..).unwrap_or_default();
            let Some(step) = memchr2(mark, b'\n', rest) else { return Err(Broken::Quote { line, column }) };
            at += step;
            if self.text.get(at) == Some(&b'\n') {
                return Err(Broken::Quote { line, column });
            }
            // A quote ends the value only before white space: 'a dog's life' is one value.
            if self.text.get(at + 1).is_none_or(u8::is_ascii_whitespace) {
                let text = self.text.get(begin..at).unwrap_or_default();
                self.at = at + 1;
                return Ok(Token { kind: Kind::Value { quoted: true }, text, line, column });
            }
            at += 1;
        }
    }

    #[inline]
    fn bare(&mut self) -> Token<'a> {
        let column = self.column();
        let begin = self.at;
        let rest = self.text.get(begin..).unwrap_or_default();
        let length = rest.iter().position(|c| matches!(c, b' ' | b'\n' | b'\t' | b'\r')).unwrap_or(rest.len());
        self.at = begin + length;
        let text = rest.get(..length).unwrap_or_default();
        let is = |word: &[u8]| text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word));
        let kind = match text.first() {
            Some(b'_') => Kind::Tag,
            Some(b'l' | b'L') if length == 5 && is(b"loop_") => Kind::Loop,
            Some(b'd' | b'D') if is(b"data_") => Kind::Block,
            Some(b'g' | b'G') if length == 7 && is(b"global_") => Kind::Block,
            Some(b's' | b'S') if is(b"save_") => Kind::Save,
            _ => Kind::Value { quoted: false },
        };
        Token { kind, text, line: self.line, column }
    }
}

/// The name after `_atom_site.`; `None` for a tag of another category.
fn atom_site_name(tag: &[u8]) -> Option<&[u8]> {
    const CATEGORY: &[u8] = b"_atom_site.";
    let (head, name) = tag.split_at_checked(CATEGORY.len())?;
    head.eq_ignore_ascii_case(CATEGORY).then_some(name)
}

/// What holds atoms.
const EXPECTED: &str = "rows of _atom_site";

/// An `_atom_site`, not read yet, and last the data block that it is in.
enum Found<'a> {
    /// A loop: its names, the line where it begins, and its rows.
    Loop(Vec<Token<'a>>, u64, Tokens<'a>, &'a [u8]),
    /// Item by item, as for a single atom, and where the last value ends.
    Single(Vec<(&'a [u8], Token<'a>)>, usize, &'a [u8]),
}

pub(super) fn parse(text: &[u8], shown: &str, options: Options) -> Result<Structure> {
    // Other tables are looked for before and behind the atoms, which are most of the file.
    let (mut atoms_from, mut atoms_to) = (0, 0);
    let mut structure = match find(text, shown)? {
        Found::Loop(tags, line, rows, block) => {
            let mark = text.len() - rows.text.len();
            atoms_from = mark + rows.at;
            let mut builder = Builder::new(text.len() / 90, options);
            connections(text.get(..atoms_from).unwrap_or_default(), 1, &mut builder, shown)?;
            let (structure, end) = read_loop(rows, line, &tags, builder, block, shown)?;
            atoms_to = mark + end;
            Ok(structure)
        }
        Found::Single(items, end, block) => {
            let (names, row): (Vec<&[u8]>, Vec<Token<'_>>) = items.into_iter().unzip();
            let items: Vec<Option<Item>> = names.iter().map(|name| Item::named(name)).collect();
            let line = row.first().map_or(0, |t| t.line);
            let mut table = Table::new(&items, Builder::new(1, options), line, shown)?;
            table.row(&row);
            table.finish(block, Tokens { at: end, ..Tokens::new(text) }, shown)
        }
    }?;
    for part in [text.get(..atoms_from), text.get(atoms_to..)].into_iter().flatten() {
        parents(part, &mut structure);
    }
    Ok(structure)
}

/// Reads what modified residues are derived from, wherever in the file that table is.
fn parents(text: &[u8], structure: &mut Structure) {
    const CATEGORY: &[u8] = b"_pdbx_struct_mod_residue.";
    let Some(at) = memmem::find(text, CATEGORY) else { return };
    let looped = text
        .get(..at)
        .and_then(|before| before.trim_ascii_end().last_chunk::<5>())
        .is_some_and(|word| word.eq_ignore_ascii_case(b"loop_"));
    let mut tokens = Tokens { at, ..Tokens::new(text) };
    let (mut tags, mut values) = (Vec::new(), Vec::new());
    while let Ok(Some(token)) = tokens.next() {
        match token.kind {
            Kind::Tag if token.text.starts_with(CATEGORY) && (!looped || values.is_empty()) => tags.push(token.text),
            Kind::Value { .. } => values.push(token.text),
            _ => break,
        }
    }
    let find = |name: &[u8]| tags.iter().position(|tag| tag.get(CATEGORY.len()..) == Some(name));
    let component = find(b"label_comp_id").or(find(b"auth_comp_id"));
    if let (Some(component), Some(parent)) = (component, find(b"parent_comp_id")) {
        for row in values.chunks(tags.len().max(1)) {
            if let (Some(component), Some(parent)) = (row.get(component), row.get(parent)) {
                add_parent(structure, component, parent);
            }
        }
    }
}

/// The rows of all models.
pub(super) fn sites(text: &[u8], shown: &str, options: Options) -> Result<Sites> {
    let (mut items, line, mut rows, single) = match find(text, shown)? {
        Found::Loop(tags, line, rows, _) => {
            let items = tags.iter().map(|t| atom_site_name(t.text).and_then(Item::named)).collect::<Vec<_>>();
            (items, line, rows, None)
        }
        Found::Single(items, end, _) => {
            let (names, row): (Vec<&[u8]>, Vec<Token<'_>>) = items.into_iter().unzip();
            let line = row.first().map_or(0, |t| t.line);
            (
                names.iter().map(|name| Item::named(name)).collect(),
                line,
                Tokens { at: end, ..Tokens::new(text) },
                Some(row),
            )
        }
    };
    let place = |item: Item| items.iter().position(|i| *i == Some(item));
    let (b_factor, model, width) = (place(Item::BFactor), place(Item::Model), items.len());
    // Without the column of models, all rows are read.
    if let Some(item) = model.and_then(|column| items.get_mut(column)) {
        *item = None;
    }
    // Places are those in the whole text.
    let mark = text.len() - rows.text.len();
    let names = mark + rows.at;
    let mut table = Table::new(&items, Builder::new(text.len() / 90, options), line, shown)?;
    let mut of_first: Option<&[u8]> = None;
    let (mut first_model, mut b_factors) = (Vec::new(), Vec::new());
    let (mut words, mut ends) = (Vec::new(), Vec::new());
    let mut row: Vec<Token<'_>> = single.clone().unwrap_or_default();
    loop {
        if single.is_none() {
            next_row(&mut rows, width, &mut row, shown)?;
        }
        if row.is_empty() {
            break;
        }
        let before = table.builder.atoms();
        table.row(&row);
        if table.builder.atoms() > before {
            first_model.push(given(&row, model).is_none_or(|model| *of_first.get_or_insert(model) == model));
            let number = given(&row, b_factor).and_then(|text| fast_float2::parse::<f64, _>(text).ok());
            b_factors.push(number.filter(|b| b.is_finite()).unwrap_or(f64::NAN));
            if let Some(token) = b_factor.and_then(|column| row.get(column)) {
                let begin = token.text.as_ptr().addr() - text.as_ptr().addr();
                words.push(begin..begin + token.text.len());
            }
            ends.push(mark + rows.at);
        }
        if single.is_some() {
            break;
        }
    }
    // Models are no copies of chains.
    if !first_model.contains(&false) {
        table.builder.part_chains();
    }
    let places = if b_factor.is_some() { Places::Words(words) } else { Places::Missing(names, ends) };
    Ok(Sites::new(table.builder.records(shown, EXPECTED)?, first_model, b_factors, text, places))
}

/// The first `_atom_site`.
fn find<'a>(text: &'a [u8], shown: &str) -> Result<Found<'a>> {
    let mut tokens = Tokens::new(text);
    let mut pending: Option<Token<'_>> = None;
    // An `_atom_site` written item by item, as for a single atom.
    let mut single: Vec<(&[u8], Token<'_>)> = Vec::new();
    let mut block: &[u8] = b"";
    let mut end = 0;
    loop {
        let token = match pending.take() {
            Some(token) => Some(token),
            None => tokens.next().map_err(|e| e.into_error(shown))?,
        };
        let Some(token) = token else { break };
        match token.kind {
            Kind::Block if !single.is_empty() => break,
            Kind::Block => block = token.text,
            Kind::Save => {}
            Kind::Loop => {
                let mut tags = Vec::new();
                let mut before = tokens;
                let mut next = tokens.next().map_err(|e| e.into_error(shown))?;
                while let Some(tag) = next.filter(|t| t.kind == Kind::Tag) {
                    tags.push(tag);
                    before = tokens;
                    next = tokens.next().map_err(|e| e.into_error(shown))?;
                }
                // A table without rows is passed over.
                let rows = next.is_some_and(|value| matches!(value.kind, Kind::Value { .. }));
                if rows && tags.first().is_some_and(|t| atom_site_name(t.text).is_some()) {
                    return Ok(Found::Loop(tags, token.line, before, block));
                }
                pending = next;
            }
            Kind::Tag => {
                let value = tokens.next().map_err(|e| e.into_error(shown))?;
                match value {
                    Some(value) if matches!(value.kind, Kind::Value { .. }) => {
                        if let Some(name) = atom_site_name(token.text) {
                            single.push((name, value));
                            end = tokens.at;
                        }
                    }
                    other => {
                        if atom_site_name(token.text).is_some() {
                            return Err(Error::Syntax {
                                path: shown.to_owned(),
                                line: token.line,
                                column: Some(token.column),
                                reason: format!("{} has no value", quote(token.text)),
                            });
                        }
                        pending = other;
                    }
                }
            }
            // Values of other tables, and stray ones.
            Kind::Value { .. } => {}
        }
    }
    if !single.is_empty() {
        return Ok(Found::Single(single, end, block));
    }
    Err(Error::NoAtoms { path: shown.to_owned(), expected: "an _atom_site table".to_owned() })
}

/// The biological assemblies that a text describes.
pub(super) fn assemblies(text: &[u8], shown: &str) -> Result<Described> {
    const GENERATORS: &[u8] = b"_pdbx_struct_assembly_gen.";
    const OPERATORS: &[u8] = b"_pdbx_struct_oper_list.";
    let mut generators = Vec::new();
    let mut operators = HashMap::new();
    for row in table(text, GENERATORS).map_err(|e| e.into_error(shown))? {
        let value = |name: &str| row.get(name).cloned().unwrap_or_default();
        generators.push([value("assembly_id"), value("oper_expression"), value("asym_id_list")]);
    }
    for row in table(text, OPERATORS).map_err(|e| e.into_error(shown))? {
        operators.extend(operator(|name| row.get(name).cloned()));
    }
    Ok(assembly::of_tables(&generators, &operators))
}

/// Reads the covalent bonds that a part of the text states, which begins on line `line`.
fn connections(text: &[u8], line: u64, builder: &mut Builder, shown: &str) -> Result<()> {
    let (names, values) = items(text, b"_struct_conn.").map_err(|e| e.into_error(shown))?;
    let columns = links::ITEMS.map(|item| names.iter().position(|name| name.eq_ignore_ascii_case(item.as_bytes())));
    let ids = builder.ids;
    for row in values.chunks_exact(names.len().max(1)) {
        let bond = links::connection(|item| given(row, columns.get(item).copied().flatten()), ids);
        builder.stated.named.extend(bond.map(|ends| (line + row.first().map_or(0, |t| t.line) - 1, ends)));
    }
    Ok(())
}

/// The rows of a table, values by names of items in lower case.
fn table(text: &[u8], category: &[u8]) -> std::result::Result<Vec<HashMap<String, String>>, Broken> {
    let words = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    let (names, values) = items(text, category)?;
    let names: Vec<String> = names.into_iter().map(|name| words(name).to_ascii_lowercase()).collect();
    let rows = values.chunks_exact(names.len().max(1));
    Ok(rows.map(|row| names.iter().cloned().zip(row.iter().map(|t| words(t.text))).collect()).collect())
}

/// The names of a table's items, and its values. It is looked for, as it may be anywhere in the file.
fn items<'a>(text: &'a [u8], category: &[u8]) -> std::result::Result<(Vec<&'a [u8]>, Vec<Token<'a>>), Broken> {
    // Quoted, or within another word, it is a value of another table.
    let begins = |at: &usize| at.checked_sub(1).and_then(|b| text.get(b)).is_none_or(u8::is_ascii_whitespace);
    let Some(at) = memmem::find_iter(text, category).find(begins) else { return Ok(Default::default()) };
    let before = text.get(..at).unwrap_or_default().trim_ascii_end();
    let looped = before.get(before.len().saturating_sub(5)..).is_some_and(|w| w.eq_ignore_ascii_case(b"loop_"));
    let line = 1 + memchr_iter(b'\n', text.get(..at).unwrap_or_default()).count() as u64;
    let mut tokens = Tokens { at, line, line_start: at, ..Tokens::new(text) };
    let ours = |token: &Token<'_>| {
        let head = token.text.get(..category.len());
        token.kind == Kind::Tag && head.is_some_and(|head| head.eq_ignore_ascii_case(category))
    };
    let (mut names, mut values) = (Vec::new(), Vec::new());
    while let Some(token) = tokens.next()? {
        match token.kind {
            Kind::Tag if ours(&token) && (!looped || values.is_empty()) => {
                names.push(token.text.get(category.len()..).unwrap_or_default());
            }
            Kind::Value { .. } => values.push(token),
            _ => break,
        }
    }
    Ok((names, values))
}

/// An operator and its id from the items of its row.
pub(super) fn operator(value: impl Fn(&str) -> Option<String>) -> Option<(String, Matrix)> {
    let number = |name: String| value(&name).and_then(|v| v.parse::<f64>().ok());
    let mut matrix = IDENTITY;
    for (i, row) in (1..).zip(&mut matrix) {
        for (j, slot) in (1..).zip(row.iter_mut()) {
            *slot = number(if j == 4 { format!("vector[{i}]") } else { format!("matrix[{i}][{j}]") })?;
        }
    }
    Some((value("id")?, matrix))
}

/// Reads the rows of `_atom_site`; `tokens` is at the end of its last tag. Gives where the table ends as well.
fn read_loop<'a>(
    mut tokens: Tokens<'a>,
    line: u64,
    tags: &[Token<'a>],
    builder: Builder,
    block: &[u8],
    shown: &str,
) -> Result<(Structure, usize)> {
    let items: Vec<Option<Item>> = tags.iter().map(|t| atom_site_name(t.text).and_then(Item::named)).collect();
    let mut table = Table::new(&items, builder, line, shown)?;
    table.start = Some(tokens);
    let width = items.len();
    let mut words = Words::new();
    let mut row: Vec<Token<'a>> = Vec::with_capacity(width);
    loop {
        // Nearly every row is a line of plain words.
        while let Some(length) = tokens.next_line().and_then(|text| words.cut(text, width)) {
            table.line(&words, tokens.line, &mut row);
            tokens.skip_line(length);
        }
        next_row(&mut tokens, width, &mut row, shown)?;
        if row.is_empty() {
            let end = tokens.at;
            return table.finish(block, tokens, shown).map(|structure| (structure, end));
        }
        table.row(&row);
    }
}

/// The values of the next row; none at the end of the table.
fn next_row<'a>(tokens: &mut Tokens<'a>, width: usize, row: &mut Vec<Token<'a>>, shown: &str) -> Result<()> {
    row.clear();
    while row.len() < width {
        let before = *tokens;
        match tokens.next().map_err(|e| e.into_error(shown))? {
            Some(token) if matches!(token.kind, Kind::Value { .. }) => row.push(token),
            _ => {
                *tokens = before;
                break;
            }
        }
    }
    match row.first() {
        Some(start) if row.len() < width => Err(Error::Syntax {
            path: shown.to_owned(),
            line: start.line,
            column: Some(start.column),
            reason: format!("the last row of _atom_site has {} of {width} values", row.len()),
        }),
        _ => Ok(()),
    }
}

/// The tables `_atom_site` that follow the one that is read.
#[derive(Debug, Default)]
struct Others {
    rows: u64,
    /// Line of the first one.
    line: u64,
    /// The blocks that they are in.
    blocks: Vec<String>,
}

impl Others {
    /// Looks through what follows a table of the block `own`.
    fn find(mut tokens: Tokens<'_>, own: &[u8]) -> std::result::Result<Self, Broken> {
        let mut others = Self::default();
        let rest = tokens.text.get(tokens.at..).unwrap_or_default();
        // Few files hold the word once more, so that few have to be gone through to the end.
        let spellings: [&[u8]; 2] = [b"tom_site.", b"TOM_SITE."];
        if !spellings.iter().any(|word| memmem::find(rest, word).is_some()) {
            return Ok(others);
        }
        let mut block = own.to_vec();
        let mut pending = None;
        loop {
            let token = match pending.take() {
                Some(token) => token,
                None => match tokens.next()? {
                    Some(token) => token,
                    None => return Ok(others),
                },
            };
            match token.kind {
                Kind::Block => block = token.text.to_vec(),
                Kind::Loop => {
                    let (mut tags, mut first_is_atoms) = (0u64, false);
                    let mut next = tokens.next()?;
                    while let Some(tag) = next.filter(|t| t.kind == Kind::Tag) {
                        first_is_atoms |= tags == 0 && atom_site_name(tag.text).is_some();
                        tags += 1;
                        next = tokens.next()?;
                    }
                    let mut values = 0u64;
                    while next.is_some_and(|t| matches!(t.kind, Kind::Value { .. })) {
                        values += 1;
                        next = tokens.next()?;
                    }
                    pending = next;
                    if first_is_atoms {
                        others.add(values.div_ceil(tags.max(1)), token.line, &block);
                    }
                }
                // One atom, written item by item.
                Kind::Tag if atom_site_name(token.text).is_some_and(|n| n.eq_ignore_ascii_case(b"Cartn_x")) => {
                    others.add(1, token.line, &block);
                }
                _ => {}
            }
        }
    }

    fn add(&mut self, rows: u64, line: u64, block: &[u8]) {
        if self.rows == 0 {
            self.line = line;
        }
        self.rows += rows;
        let name = String::from_utf8_lossy(block).into_owned();
        if !self.blocks.contains(&name) && self.blocks.len() < 20 {
            self.blocks.push(name);
        }
    }
}

/// Positions of the items in a row. Of a pair, the column of the wanted ids comes first.
#[derive(Debug, Default)]
struct Columns {
    xyz: [usize; 3],
    atom: [Option<usize>; 2],
    comp: [Option<usize>; 2],
    chain: [Option<usize>; 2],
    seq: [Option<usize>; 2],
    label_chain: Option<usize>,
    label_seq: Option<usize>,
    group: Option<usize>,
    symbol: Option<usize>,
    altloc: Option<usize>,
    icode: Option<usize>,
    occupancy: Option<usize>,
    model: Option<usize>,
    count: usize,
}

impl Columns {
    /// Everything that tells one residue from another.
    #[inline]
    fn of_residue(&self) -> [Option<usize>; 8] {
        let c = self;
        [c.comp[0], c.comp[1], c.chain[0], c.chain[1], c.seq[0], c.seq[1], c.icode, c.group]
    }

    /// What tells one atom of a residue from another.
    #[inline]
    fn of_atom(&self) -> [Option<usize>; 2] {
        [self.atom[0].or(self.atom[1]), self.altloc]
    }
}

/// The first eight bytes of a value, as those of a short word.
fn word(text: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.iter_mut().zip(text).for_each(|(byte, c)| *byte = *c);
    u64::from_le_bytes(bytes)
}

/// A model after the first.
struct Model<'a> {
    name: &'a [u8],
    atoms: Atoms,
    /// Where it begins.
    line: u64,
}

struct Table<'a> {
    columns: Columns,
    builder: Builder,
    model: Option<Vec<u8>>,
    /// The texts that told the last residue from the one before, to skip reading them again.
    last: [&'a [u8]; 7],
    has_last: bool,
    component: Name,
    /// The first model, where it is a short word on the line of a usual row.
    model_word: Option<Short>,
    /// The words of the last line's residue, if all of them are short: with the same words, the same residue.
    last_words: Option<[u64; 8]>,
    /// The rows.
    start: Option<Tokens<'a>>,
    /// Other models, and which one the last row was of.
    others: Vec<Model<'a>>,
    other: usize,
    other_word: Option<Short>,
    /// The words of its residue, and the key that they make.
    other_place: ([u64; 8], u64),
    places: HashMap<&'a [u8], usize, ahash::RandomState>,
    /// The last line's occupancy, as word and as number: mostly the same all along a file.
    occupancy: (Short, f64),
}

/// The text of a value, or nothing for `.` and `?`.
#[inline]
fn given<'a>(row: &[Token<'a>], column: Option<usize>) -> Option<&'a [u8]> {
    let token = row.get(column?)?;
    match (token.kind, token.text) {
        (Kind::Value { quoted: false }, b"." | b"?") | (_, b"") => None,
        (_, text) => Some(text),
    }
}

/// The value that is wanted, else the other one.
#[inline]
fn either<'a>(row: &[Token<'a>], columns: [Option<usize>; 2]) -> Option<&'a [u8]> {
    let [wanted, other] = columns;
    given(row, wanted).or_else(|| given(row, other))
}

impl<'a> Table<'a> {
    fn new(items: &[Option<Item>], builder: Builder, line: u64, shown: &str) -> Result<Self> {
        let ids = builder.ids;
        let find = |item: Item| items.iter().position(|i| *i == Some(item));
        atom_site::check(|item| find(item).is_some(), shown, Some(line))?;
        let pair = |author: Item, label: Item| ids.order([find(author), find(label)]);
        let columns = Columns {
            xyz: [Item::X, Item::Y, Item::Z].map(|item| find(item).unwrap_or_default()),
            atom: pair(Item::AuthAtom, Item::LabelAtom),
            comp: pair(Item::AuthComp, Item::LabelComp),
            chain: pair(Item::AuthChain, Item::LabelChain),
            seq: pair(Item::AuthSeq, Item::LabelSeq),
            label_chain: find(Item::LabelChain),
            label_seq: find(Item::LabelSeq),
            group: find(Item::Group),
            symbol: find(Item::Symbol),
            altloc: find(Item::AltLoc),
            icode: find(Item::Icode),
            occupancy: find(Item::Occupancy),
            model: find(Item::Model),
            count: items.len(),
        };
        Ok(Self {
            columns,
            builder,
            model: None,
            last: [b""; 7],
            has_last: false,
            component: Name::default(),
            model_word: None,
            last_words: None,
            start: None,
            others: Vec::new(),
            other: 0,
            other_word: None,
            other_place: ([0; 8], 0),
            places: HashMap::default(),
            occupancy: ((0, 0), 1.0),
        })
    }

    fn problem(&mut self, row: &[Token<'a>], column: Option<usize>, what: String) {
        let token = column.and_then(|c| row.get(c)).or_else(|| row.first());
        let (line, first, length) = token.map_or((0, 0, 1), |t| (t.line, t.column, t.text.len().max(1) as u64));
        self.builder.notes.problems.push(Problem { line, column: first, column_end: first + length - 1, what });
    }

    /// Takes the row that is on line `number`. `row` is only lent.
    #[inline]
    fn line(&mut self, words: &Words<'a>, number: u64, row: &mut Vec<Token<'a>>) {
        let place = self.residue_words(words);
        if self.other_word.is_some() && self.pass_over(words, place).is_some() {
            return;
        }
        if place.is_some() && place == self.last_words && self.usual(words).is_some() {
            return;
        }
        row.clear();
        for column in 0..self.columns.count {
            // Words that mean something else in quotes are not among them.
            let kind = Kind::Value { quoted: false };
            row.push(Token { kind, text: words.get(column), line: number, column: words.column(column) });
        }
        let problems = self.builder.notes.problems.total();
        if !self.row(row) {
            self.other_word = self.columns.model.and_then(|column| words.short(column));
            return;
        }
        if let (Some(first), Some(column)) = (&self.model, self.columns.model) {
            if first == words.get(column) {
                self.model_word = words.short(column);
            }
        }
        // What is wrong with a residue is said of each of its rows.
        self.last_words = place.filter(|_| self.has_last && self.builder.notes.problems.total() == problems);
    }

    /// Everything that tells one residue from another.
    #[inline]
    fn residue_words(&self, words: &Words<'a>) -> Option<[u64; 8]> {
        let [comp, other_comp, chain, other_chain, seq, other_seq, icode, group] = self.columns.of_residue();
        let word = |column: Option<usize>| column.map_or(Some(0), |c| words.short(c).map(|(word, _)| word));
        Some([
            word(comp)?,
            word(other_comp)?,
            word(chain)?,
            word(other_chain)?,
            word(seq)?,
            word(other_seq)?,
            word(icode)?,
            word(group)?,
        ])
    }

    /// Adds an atom of the first model that needs no second thought to the last residue. `None`, with nothing done, for any
    /// other, which [`Self::row`] then looks at value by value. Both give the same atoms.
    #[inline]
    fn usual(&mut self, words: &Words<'a>) -> Option<()> {
        let given = |(word, length): &Short| *length > 1 || !matches!(*word as u8, b'.' | b'?');
        if let Some(column) = self.columns.model {
            let model = words.short(column).filter(given)?;
            if Some(model) != self.model_word {
                return None;
            }
        }
        let [x, y, z] = self.columns.xyz;
        let coordinate = |column: usize| words.short(column).and_then(|(word, length)| short_decimal(word, length));
        let position = [coordinate(x)?, coordinate(y)?, coordinate(z)?];
        let name = words.short(self.columns.atom[0].or(self.columns.atom[1])?).filter(given)?;
        let symbol = words.short(self.columns.symbol?).filter(given)?;
        let element = match (symbol, symbol.0.to_le_bytes()) {
            ((_, 1), [one, ..]) => vocab::element(&[one]),
            ((_, 2), [one, two, ..]) => vocab::element(&[one, two]),
            _ => 0,
        };
        if element == 0 || name.0 & (0x80 * ONES) != 0 {
            return None;
        }
        let occupancy = words.short(self.columns.occupancy?)?;
        if occupancy != self.occupancy.0 {
            self.occupancy = (occupancy, short_decimal(occupancy.0, occupancy.1)?);
        }
        let altloc = match self.columns.altloc {
            None => 0,
            Some(column) => Some(words.short(column)?).filter(given).map_or(0, |(word, _)| word as u8),
        };
        self.builder.accounts.records += 1;
        self.builder.atom(Name::of_short(name.0, name.1 as u8), element, position, self.occupancy.1, altloc);
        Some(())
    }

    /// Counts an atom of the same model after the first as the row before. `None`, with nothing done, for any other.
    #[inline]
    fn pass_over(&mut self, words: &Words<'a>, place: Option<[u64; 8]>) -> Option<()> {
        let (place, model) = (place?, words.short(self.columns.model?)?);
        let word = |column: Option<usize>| column.map_or(Some(0), |c| words.short(c).map(|(word, _)| word));
        let [atom, altloc] = self.columns.of_atom();
        let of_atom = [word(atom)?, word(altloc)?];
        let other = self.others.get_mut(self.other).filter(|_| self.other_word == Some(model))?;
        if place != self.other_place.0 {
            self.other_place = (place, place.into_iter().fold(0, models::mix));
        }
        other.atoms.add(of_atom.into_iter().fold(self.other_place.1, models::mix));
        self.builder.accounts.records += 1;
        Some(())
    }

    /// The key of a row's atom.
    fn key_of(&self, row: &[Token<'a>]) -> u64 {
        let word = |column: Option<usize>| column.and_then(|c| row.get(c)).map_or(0, |token| word(token.text));
        let columns = self.columns.of_residue().into_iter().chain(self.columns.of_atom());
        columns.map(word).fold(0, models::mix)
    }

    /// Counts an atom of another model than the first.
    #[inline]
    fn other_model(&mut self, name: &'a [u8], key: u64, line: u64) {
        self.other_word = None;
        if self.others.get(self.other).is_none_or(|other| other.name != name) {
            self.other = *self.places.entry(name).or_insert(self.others.len());
            if self.other == self.others.len() {
                self.others.push(Model { name, atoms: Atoms::default(), line });
            }
        }
        if let Some(other) = self.others.get_mut(self.other) {
            other.atoms.add(key);
        }
    }

    /// The atoms of the first model, of which there are so many.
    fn first_model(&self, count: u64, shown: &str) -> Result<Atoms> {
        let mut first = Atoms::default();
        let Some(mut tokens) = self.start else { return Ok(first) };
        let mut row = Vec::new();
        while first.count < count {
            next_row(&mut tokens, self.columns.count, &mut row, shown)?;
            if row.is_empty() {
                break;
            }
            if given(&row, self.columns.model).is_none_or(|model| self.model.as_deref() == Some(model)) {
                first.add(self.key_of(&row));
            }
        }
        Ok(first)
    }

    /// False for a row of another model than the first, which is only counted.
    #[inline]
    fn row(&mut self, row: &[Token<'a>]) -> bool {
        self.last_words = None;
        self.builder.accounts.records += 1;
        if let Some(model) = given(row, self.columns.model) {
            match &self.model {
                None => self.model = Some(model.to_vec()),
                Some(first) if first.as_slice() != model => {
                    let line = row.first().map_or(0, |t| t.line);
                    self.other_model(model, self.key_of(row), line);
                    return false;
                }
                Some(_) => {}
            }
        }
        let text = |column: Option<usize>| column.and_then(|c| row.get(c)).map_or(&b""[..], |t| t.text);
        let place = [
            either(row, self.columns.comp).unwrap_or_default(),
            either(row, self.columns.chain).unwrap_or_default(),
            text(self.columns.seq[0]),
            text(self.columns.seq[1]),
            given(row, self.columns.icode).unwrap_or_default(),
            text(self.columns.group),
            text(self.columns.label_chain),
        ];
        if (!self.has_last || place != self.last) && !self.begin_residue(row, &place) {
            return true;
        }
        let mut position = [0.0; 3];
        for (out, (column, axis)) in position.iter_mut().zip(self.columns.xyz.into_iter().zip(["x", "y", "z"])) {
            let field = text(Some(column));
            match fast_float2::parse::<f64, _>(field).ok().filter(|v| v.abs() < LARGEST) {
                Some(value) => *out = value,
                None => {
                    let what = format!("Cartn_{axis} {} is not a number", quote(field));
                    self.problem(row, Some(column), what);
                    return true;
                }
            }
        }
        let atom = either(row, self.columns.atom).unwrap_or_default();
        let Some(name) = Name::new(atom) else {
            let what = format!("atom name {} is longer than {} bytes", quote(atom), Name::CAPACITY);
            self.problem(row, self.columns.atom[0].or(self.columns.atom[1]), what);
            return true;
        };
        let altloc = given(row, self.columns.altloc).and_then(|a| a.first().copied()).unwrap_or(0);
        let occupancy = given(row, self.columns.occupancy)
            .and_then(|o| fast_float2::parse::<f64, _>(o).ok())
            .filter(|o| o.is_finite())
            .unwrap_or_else(|| self.assume_occupancy(row));
        let element = match given(row, self.columns.symbol).unwrap_or_default() {
            // The dictionary's own word for an element that is not known.
            b"X" => 0,
            symbol => match vocab::element(symbol) {
                0 => self.guess_element(row, atom),
                stated => stated,
            },
        };
        self.builder.atom(name, element, position, occupancy, altloc);
        true
    }

    /// Counts a repair at the value in `column`, or at the row where the table has no such column.
    #[cold]
    fn repair(&mut self, kind: Repair, row: &[Token<'a>], column: Option<usize>, what: impl FnOnce() -> String) {
        let token = column.and_then(|c| row.get(c));
        let line = token.or(row.first()).map_or(0, |t| t.line);
        let (first, length) = token.map_or((0, 1), |t| (t.column, t.text.len().max(1) as u64));
        let place = || Problem { line, column: first, column_end: (first + length).saturating_sub(1), what: what() };
        self.builder.notes.repair(kind, place);
    }

    #[cold]
    fn assume_occupancy(&mut self, row: &[Token<'a>]) -> f64 {
        let column = self.columns.occupancy;
        self.repair(Repair::OccupancyAssumed, row, column, || match given(row, column) {
            None => "no occupancy; taken to be 1".to_owned(),
            Some(found) => format!("occupancy {} is not a number; taken to be 1", quote(found)),
        });
        1.0
    }

    #[cold]
    fn guess_element(&mut self, row: &[Token<'a>], atom: &[u8]) -> u8 {
        if given(row, self.columns.symbol).is_some_and(no_atom::is_symbol) {
            self.builder.no_atoms.push(self.builder.atoms());
            return 0;
        }
        let element = infer_element(atom, false, self.component);
        let column = self.columns.symbol;
        self.repair(Repair::ElementGuessed, row, column, || {
            let found = match given(row, column) {
                None => "no type_symbol".to_owned(),
                Some(found) => format!("type_symbol {} is no element", quote(found)),
            };
            format!("{found}; {} by the atom name {}", vocab::symbol(element), quote(atom))
        });
        element
    }

    /// Notes an author's id that is missing while there is a label.
    fn note_label(&mut self, row: &[Token<'a>], [author, label]: [Option<usize>; 2], name: &str) {
        if given(row, author).is_none() {
            if let Some(found) = given(row, label) {
                let what = || format!("no {name} by the author; the label {} is used", quote(found));
                self.repair(Repair::LabelForAuthor, row, author, what);
            }
        }
    }

    fn begin_residue(&mut self, row: &[Token<'a>], place: &[&'a [u8]; 7]) -> bool {
        let [comp, chain, ..] = *place;
        let Some(name) = Name::new(comp) else {
            let what = format!("component id {} is longer than {} bytes", quote(comp), Name::CAPACITY);
            self.problem(row, self.columns.comp[0].or(self.columns.comp[1]), what);
            return false;
        };
        let Ok(chain) = std::str::from_utf8(chain) else {
            let what = format!("chain id {} is not text", quote(chain));
            self.problem(row, self.columns.chain[0].or(self.columns.chain[1]), what);
            return false;
        };
        let number = either(row, self.columns.seq);
        let resnum = match number {
            // Neither the author nor the entity has a number for it.
            None => {
                let what = || "no residue number; taken to be 0".to_owned();
                self.repair(Repair::NumberMissing, row, self.columns.seq[0].or(self.columns.seq[1]), what);
                0
            }
            Some(text) => match std::str::from_utf8(text).ok().and_then(|t| t.parse::<i32>().ok()) {
                Some(resnum) => resnum,
                None => {
                    let what = format!("residue number {} is not a whole number", quote(text));
                    self.problem(row, self.columns.seq[0].or(self.columns.seq[1]), what);
                    return false;
                }
            },
        };
        // Insertion codes belong to the author's numbers.
        let by_label = self.builder.ids == Ids::Label && given(row, self.columns.label_seq).is_some();
        let icode = given(row, self.columns.icode).filter(|_| !by_label).unwrap_or_default();
        let Some(icode) = Name::new(icode) else {
            let what = format!("insertion code {} is longer than {} bytes", quote(icode), Name::CAPACITY);
            self.problem(row, self.columns.icode, what);
            return false;
        };
        let group = given(row, self.columns.group).unwrap_or_default();
        // Only polymers are numbered along an entity's sequence. Programs that number everything say nothing.
        let polymer = self.columns.label_seq.map(|c| given(row, Some(c)).is_some());
        let hetero = group.eq_ignore_ascii_case(b"HETATM");
        if self.builder.ids == Ids::Author {
            self.note_label(row, self.columns.chain, "chain id");
            self.note_label(row, self.columns.seq, "residue number");
        }
        let line = row.first().map_or(0, |t| t.line);
        self.builder.residue(ResidueKey { name, chain, resnum, icode, hetero, polymer, after_ter: false, line });
        self.last = *place;
        self.has_last = true;
        self.component = name;
        true
    }

    /// The structure; `tokens` are at the end of the table, which is in `block`.
    fn finish(mut self, block: &[u8], tokens: Tokens<'_>, shown: &str) -> Result<Structure> {
        connections(tokens.text.get(tokens.at..).unwrap_or_default(), tokens.line, &mut self.builder, shown)?;
        let others = Others::find(tokens, block).map_err(|e| e.into_error(shown))?;
        let rows: u64 = self.others.iter().map(|other| other.atoms.count).sum();
        let first = match rows {
            0 => Atoms::default(),
            _ => self.first_model(self.builder.accounts.records - rows, shown)?,
        };
        let notes = &mut self.builder.notes;
        let place = |line, what| Problem { line, column: 0, column_end: 0, what };
        if others.rows > 0 {
            let (rows, own) = (others.rows, String::from_utf8_lossy(block));
            let what = match others.blocks.iter().all(|name| *name == own) {
                true => {
                    format!("{rows} atoms of another table _atom_site of {own:?} are not read, only those of the first")
                }
                false => {
                    let names = others.blocks.join(", ");
                    format!("{rows} atoms of other data blocks ({names}) are not read, only those of {own:?}")
                }
            };
            notes.repairs(Repair::BlocksUnread, rows, || place(others.line, what));
        }
        if let Some(other) = self.others.first() {
            let what = format!("{rows} atoms of models after the first, from here on, are not read");
            notes.repairs(Repair::ModelsUnread, rows, || place(other.line, what));
            models::note(notes, first, self.others.iter().map(|other| (other.atoms, other.line)));
        }
        self.builder.accounts.leave(Unread::OtherModel, rows);
        self.builder.accounts.unread(Unread::OtherBlock, others.rows);
        self.builder.finish(shown, EXPECTED)
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::Strictness;
    use super::*;

    fn read(text: &str) -> Result<Structure> {
        parse(text.as_bytes(), "x.cif", Options::default())
    }

    fn words(text: &str) -> Vec<String> {
        let mut tokens = Tokens::new(text.as_bytes());
        let mut out = Vec::new();
        while let Some(token) = tokens.next().ok().flatten() {
            out.push(String::from_utf8_lossy(token.text).into_owned());
        }
        out
    }

    const TABLE: &str = "data_x\nloop_\n_atom_site.group_PDB\n_atom_site.id\n_atom_site.type_symbol\n\
        _atom_site.label_atom_id\n_atom_site.label_alt_id\n_atom_site.label_comp_id\n_atom_site.label_asym_id\n\
        _atom_site.label_seq_id\n_atom_site.pdbx_PDB_ins_code\n_atom_site.Cartn_x\n_atom_site.Cartn_y\n\
        _atom_site.Cartn_z\n_atom_site.occupancy\n_atom_site.auth_seq_id\n_atom_site.auth_asym_id\n\
        _atom_site.pdbx_PDB_model_num\n";

    #[test]
    fn all_ways_to_quote() {
        assert_eq!(
            words("a 'b c' \"d 'e' f\" 'a dog's life' # comment\n;text\nmore\n; z\n\"\"\n;;\n;\n"),
            ["a", "b c", "d 'e' f", "a dog's life", "text\nmore", "z", "", ";"]
        );
        // Only at the start of a line does a semicolon begin a text field, and only there does it end.
        assert_eq!(words("a ;b\n"), ["a", ";b"]);
        assert_eq!(words(";a\n b ;\n;\n"), ["a\n b ;"]);
        assert_eq!(words("O5' \"O5'\" 'N\"'"), ["O5'", "O5'", "N\""]);
        assert_eq!(words("a\r\n'b'\r\n"), ["a", "b"]);
    }

    #[test]
    fn unclosed_values_name_their_line() {
        for (text, line) in [("data_x\n_a.b 'c\n", 2), ("data_x\n_a.b\n;c\nd\n", 3), ("_a.b \"c", 1)] {
            let error = read(text).unwrap_err();
            assert_eq!((error.code(), error.line()), ("Syntax", Some(line)), "{error}");
        }
    }

    #[test]
    fn a_table_with_author_and_label_ids() {
        let s = read(&format!(
            "{TABLE}ATOM 1 C CA . ALA X 5 ? 1.5 2 -3.25 1.0 105 A 1\n\
             HETATM 2 ZN ZN . ZN Y . ? 0 0 0 1.0 201 A 1\n\
             ATOM 3 N N . GLY X 6 B 1 1 1 0.5 106 ? 1\n\
             ATOM 4 C CA . ALA X 5 ? 9 9 9 1.0 105 A 2\n#\nloop_\n_x.y\n1\n"
        ))
        .unwrap();
        assert_eq!(s.positions.len(), 3);
        assert_eq!(s.chains, ["A", "X"]);
        assert_eq!(s.elements, [6, 30, 7]);
        let r = &s.residues;
        assert_eq!((r[0].resnum, r[0].polymer, r[0].hetero), (105, Some(true), false));
        assert_eq!((r[1].resnum, r[1].polymer, r[1].hetero), (201, Some(false), true));
        assert_eq!(r[2].icode.as_str(), "B");
    }

    #[test]
    fn label_ids_in_their_place() {
        let text = format!(
            "{TABLE}ATOM 1 C CA . ALA X 5 ? 1.5 2 -3.25 1.0 105 A 1\n\
             ATOM 2 N N . GLY X 6 B 1 1 1 0.5 105 A 1\n\
             HETATM 3 ZN ZN . ZN Y . ? 0 0 0 1.0 201 A 1\n"
        );
        let options = Options { ids: Ids::Label, ..Options::default() };
        let s = parse(text.as_bytes(), "x.cif", options).unwrap();
        let of =
            |i: usize| (s.chains[s.residues[i].chain].as_str(), s.residues[i].resnum, s.residues[i].icode.as_str());
        // The insertion code went with the author's number; zinc has no other number than the author's.
        assert_eq!([of(0), of(1), of(2)], [("X", 5, ""), ("X", 6, ""), ("Y", 201, "")]);
        assert_eq!([0, 1, 2].map(|i| s.residues[i].polymer), [Some(true), Some(true), Some(false)]);
        assert!(s.repairs.is_empty());
    }

    #[test]
    fn any_column_order_and_a_single_row_without_loop() {
        let s = read(
            "data_x\n_atom_site.Cartn_z 3\n_ATOM_SITE.Cartn_x 1\n_atom_site.Cartn_y 2\n\
             _atom_site.label_atom_id \"O5'\"\n_atom_site.label_comp_id DA\n_atom_site.label_asym_id A\n\
             _atom_site.label_seq_id 1\n",
        )
        .unwrap();
        assert_eq!(s.positions, [[1.0, 2.0, 3.0]]);
        assert_eq!(s.elements, [8]);
        assert_eq!(s.atom_names[0].as_str(), "O5'");
    }

    #[test]
    fn missing_columns_are_named() {
        let error = read("data_x\nloop_\n_atom_site.Cartn_x\n_atom_site.label_atom_id\n1 CA\n").unwrap_err();
        let text = error.to_string();
        assert_eq!((error.code(), error.line()), ("MissingColumns", Some(2)));
        assert!(text.contains("Cartn_y, Cartn_z, auth_comp_id or label_comp_id"), "{text}");
    }

    #[test]
    fn bad_values_and_ragged_tables_name_line_and_column() {
        let error = read(&format!("{TABLE}ATOM 1 C CA . ALA X 5 ? 1.5 two -3.25 1.0 105 A 1\n")).unwrap_err();
        assert_eq!((error.code(), error.line(), error.column()), ("BadRecords", Some(19), Some(29)), "{error}");
        let error = read(&format!("{TABLE}ATOM 1 C CA . ALA X 5 ? 1.5\n")).unwrap_err();
        assert_eq!((error.code(), error.line()), ("Syntax", Some(19)));
        assert!(error.to_string().contains("10 of 16"), "{error}");
        let error = read(&format!("{TABLE}ATOM 1 C CA . ALA X 5 ? 1 1 1 1.0 1x A 1\n")).unwrap_err();
        assert!(error.to_string().contains("\"1x\" is not a whole number"), "{error}");
    }

    #[test]
    fn repairs_name_line_and_column() {
        let text = format!(
            "{TABLE}ATOM 1 ? CA . ALA X 5 ? 1.5 2 -3.25 nan 105 A 1\nHETATM 2 X UNK . UNX X 6 ? 4 2 1 1.0 ? ? 1\n\
             HETATM 3 QQ ZN . ZN X . ? 7 2 1 1.0 . A 1\n"
        );
        let s = read(&text).unwrap();
        assert_eq!(s.elements, [6, 0, 30]);
        assert_eq!(s.residues.iter().map(|r| r.resnum).collect::<Vec<_>>(), [105, 6, 0]);
        let told: Vec<_> = s.repairs.iter().map(|r| (r.kind.code(), r.count, r.first.line, r.first.column)).collect();
        assert_eq!(
            told,
            [
                ("element-guessed", 2, 19, 8),
                ("occupancy-assumed", 1, 19, 37),
                ("number-missing", 1, 21, 37),
                ("label-for-author", 2, 20, 40),
            ]
        );
        let strict = Options { strictness: Strictness::Strict, ..Options::default() };
        let error = parse(text.as_bytes(), "x.cif", strict).unwrap_err();
        assert_eq!((error.code(), error.line(), error.column()), ("NeedsRepair", Some(19), Some(37)), "{error}");
    }

    #[test]
    fn nothing_to_read() {
        assert_eq!(read("data_x\n_a.b c\n").unwrap_err().code(), "NoAtoms");
        assert_eq!(read(TABLE).unwrap_err().code(), "NoAtoms");
    }
}
