//! BinaryCIF: MessagePack, the encodings of its columns, and `_atom_site` of the first block that has one.
//!
//! No length in the file is trusted. Three bytes make a row at most, and no column has more texts than rows, so that
//! memory stays below 400 times the size of the file, whatever it claims; `tests/memory.rs` measures it.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{infer_element, Builder, Ids, Name, Notes, Options, Repair, ResidueKey, Structure, LARGEST};
use crate::error::{quote, Error, Problem, Problems, Result};
use crate::vocab;

/// What is wrong, without the place, which the caller knows.
type Decoded<T> = std::result::Result<T, String>;

/// A MessagePack value that has not been looked into: the bytes from its first one on.
#[derive(Debug, Clone, Copy)]
struct Value<'a>(&'a [u8]);

/// The first thing of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Head<'a> {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a [u8]),
    Binary(&'a [u8]),
    Array(u64),
    Map(u64),
    Extension,
}

/// `count` bytes off the front, or a complaint.
fn take(bytes: &[u8], count: usize) -> Decoded<(&[u8], &[u8])> {
    bytes.split_at_checked(count).ok_or_else(|| "the file ends in the middle of a value".to_owned())
}

/// A big-endian number of 1, 2, 4 or 8 bytes off the front.
fn number(bytes: &[u8], width: usize) -> Decoded<(u64, &[u8])> {
    let (digits, rest) = take(bytes, width)?;
    Ok((digits.iter().fold(0, |sum, d| sum << 8 | u64::from(*d)), rest))
}

impl<'a> Value<'a> {
    /// Reads the head and gives what follows it: the next value, or the first member of an array or a map.
    fn head(self) -> Decoded<(Head<'a>, &'a [u8])> {
        let (first, rest) = take(self.0, 1)?;
        let first = first.first().copied().unwrap_or_default();
        let sized = |width: usize| -> Decoded<(&'a [u8], &'a [u8])> {
            let (length, rest) = number(rest, width)?;
            take(rest, usize::try_from(length).map_err(|e| e.to_string())?)
        };
        let unsigned = |width: usize| -> Decoded<(Head<'a>, &'a [u8])> {
            let (value, rest) = number(rest, width)?;
            Ok((
                Head::Int(i64::try_from(value).map_err(|_| format!("{value} is beyond any number of the format"))?),
                rest,
            ))
        };
        let signed = |width: usize| -> Decoded<(Head<'a>, &'a [u8])> {
            let (value, rest) = number(rest, width)?;
            let unused = 64 - 8 * width as u32;
            Ok((Head::Int((value << unused).cast_signed() >> unused), rest))
        };
        let extension = |extra: usize| Ok((Head::Extension, take(rest, extra)?.1));
        match first {
            0x00..=0x7f => Ok((Head::Int(i64::from(first)), rest)),
            0x80..=0x8f => Ok((Head::Map(u64::from(first & 0x0f)), rest)),
            0x90..=0x9f => Ok((Head::Array(u64::from(first & 0x0f)), rest)),
            0xa0..=0xbf => take(rest, usize::from(first & 0x1f)).map(|(text, rest)| (Head::Text(text), rest)),
            0xc0 => Ok((Head::Nil, rest)),
            0xc2 | 0xc3 => Ok((Head::Bool(first == 0xc3), rest)),
            0xc4 => sized(1).map(|(bytes, rest)| (Head::Binary(bytes), rest)),
            0xc5 => sized(2).map(|(bytes, rest)| (Head::Binary(bytes), rest)),
            0xc6 => sized(4).map(|(bytes, rest)| (Head::Binary(bytes), rest)),
            0xc7..=0xc9 => {
                // Length, then one byte of type, then the content.
                let (length, _) = number(rest, 1 << (first - 0xc7))?;
                let length = usize::try_from(length).map_err(|e| e.to_string())?;
                extension(length.saturating_add(1 + (1 << (first - 0xc7))))
            }
            0xca => number(rest, 4).map(|(bits, rest)| (Head::Float(f64::from(f32::from_bits(bits as u32))), rest)),
            0xcb => number(rest, 8).map(|(bits, rest)| (Head::Float(f64::from_bits(bits)), rest)),
            0xcc..=0xcf => unsigned(1 << (first - 0xcc)),
            0xd0..=0xd3 => signed(1 << (first - 0xd0)),
            0xd4..=0xd8 => extension(1 + (1 << (first - 0xd4))),
            0xd9 => sized(1).map(|(text, rest)| (Head::Text(text), rest)),
            0xda => sized(2).map(|(text, rest)| (Head::Text(text), rest)),
            0xdb => sized(4).map(|(text, rest)| (Head::Text(text), rest)),
            0xdc | 0xdd => number(rest, 2 << (first - 0xdc)).map(|(count, rest)| (Head::Array(count), rest)),
            0xde | 0xdf => number(rest, 2 << (first - 0xde)).map(|(count, rest)| (Head::Map(count), rest)),
            0xe0..=0xff => Ok((Head::Int(i64::from(first.cast_signed())), rest)),
            0xc1 => Err("the byte 0xc1 begins no value".to_owned()),
        }
    }

    /// What follows the whole value. Without recursion, so that no depth of nesting is too deep.
    fn end(self) -> Decoded<&'a [u8]> {
        let mut rest = self.0;
        let mut waiting: u64 = 1;
        while waiting > 0 {
            waiting -= 1;
            // Most values are small numbers, short texts, and lists of few members, which their first byte describes.
            let first = rest.first().copied().unwrap_or(0xc1);
            let (members, after) = match first {
                0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => (0, rest.get(1..)),
                0xa0..=0xbf => (0, rest.get(1 + usize::from(first & 0x1f)..)),
                0x80..=0x8f => (2 * u64::from(first & 0x0f), rest.get(1..)),
                0x90..=0x9f => (u64::from(first & 0x0f), rest.get(1..)),
                _ => match Value(rest).head()? {
                    (Head::Array(count), after) => (count, Some(after)),
                    (Head::Map(count), after) => (count * 2, Some(after)),
                    (_, after) => (0, Some(after)),
                },
            };
            rest = after.ok_or_else(|| "the file ends in the middle of a value".to_owned())?;
            // Every member takes a byte at least, so that this bounds the loop as well.
            waiting += members;
            if waiting > rest.len() as u64 {
                return Err("the file ends in the middle of a value".to_owned());
            }
        }
        Ok(rest)
    }

    /// A member of a map; nil counts as not there.
    fn get(self, name: &str) -> Decoded<Option<Value<'a>>> {
        let (Head::Map(count), mut rest) = self.head()? else {
            return Err(format!("a value that should have {name} is no map"));
        };
        for _ in 0..count {
            let (key, value) = Value(rest).head()?;
            if key == Head::Text(name.as_bytes()) {
                return Ok(Some(Value(value)).filter(|v| v.0.first() != Some(&0xc0)));
            }
            rest = Value(match key {
                Head::Array(_) | Head::Map(_) => Value(rest).end()?,
                _ => value,
            })
            .end()?;
        }
        Ok(None)
    }

    fn need(self, name: &str) -> Decoded<Value<'a>> {
        self.get(name)?.ok_or_else(|| format!("{name} is missing"))
    }

    /// Calls `visit` with every member of an array until it says that it has seen enough.
    fn each<T>(self, what: &str, mut visit: impl FnMut(Value<'a>) -> Decoded<Option<T>>) -> Decoded<Option<T>> {
        let (Head::Array(count), mut rest) = self.head()? else { return Err(format!("{what} is no list")) };
        for _ in 0..count {
            let found = visit(Value(rest))?;
            if found.is_some() {
                return Ok(found);
            }
            rest = Value(rest).end()?;
        }
        Ok(None)
    }

    /// Goes over a map and in it over the members of the list `name`. `visit` gives what follows a member, and this what
    /// follows the map.
    fn over(self, name: &str, visit: &mut dyn FnMut(Value<'a>) -> Decoded<&'a [u8]>) -> Decoded<&'a [u8]> {
        let (Head::Map(count), mut rest) = self.head()? else {
            return Err(format!("a value that should have {name} is no map"));
        };
        let mut seen = false;
        for _ in 0..count {
            let value = Value(rest).end()?;
            let wanted = !seen && Value(rest).head()?.0 == Head::Text(name.as_bytes());
            if !wanted {
                rest = Value(value).end()?;
                continue;
            }
            seen = true;
            let (Head::Array(members), first) = Value(value).head()? else { return Err(format!("{name} is no list")) };
            rest = first;
            for _ in 0..members {
                rest = visit(Value(rest))?;
            }
        }
        if seen {
            Ok(rest)
        } else {
            Err(format!("{name} is missing"))
        }
    }

    fn text(self, what: &str) -> Decoded<&'a [u8]> {
        match self.head()?.0 {
            Head::Text(text) => Ok(text),
            _ => Err(format!("{what} is no text")),
        }
    }

    /// Bytes; old writers put them into a text.
    fn binary(self, what: &str) -> Decoded<&'a [u8]> {
        match self.head()?.0 {
            Head::Binary(bytes) | Head::Text(bytes) => Ok(bytes),
            _ => Err(format!("{what} holds no bytes")),
        }
    }

    fn int(self, what: &str) -> Decoded<i64> {
        match self.head()?.0 {
            Head::Int(value) => Ok(value),
            Head::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => Ok(value as i64),
            _ => Err(format!("{what} is no whole number")),
        }
    }

    fn float(self, what: &str) -> Decoded<f64> {
        match self.head()?.0 {
            Head::Int(value) => Ok(value as f64),
            Head::Float(value) => Ok(value),
            _ => Err(format!("{what} is no number")),
        }
    }
}

/// Values of a column on their way through the encodings.
#[derive(Debug, Clone, PartialEq)]
enum Values<'a> {
    Bytes(&'a [u8]),
    Ints(Vec<i32>),
    Floats(Vec<f64>),
    /// Distinct texts, and for every row which of them; -1 for none.
    Texts(Vec<Cow<'a, [u8]>>, Vec<i32>),
}

impl Values<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Ints(values) | Self::Texts(_, values) => values.len(),
            Self::Floats(values) => values.len(),
        }
    }

    fn ints(self, kind: &str) -> Decoded<Vec<i32>> {
        match self {
            Self::Ints(values) => Ok(values),
            Self::Bytes(_) => Err(format!("{kind} is given bytes; expected whole numbers")),
            Self::Floats(_) => Err(format!("{kind} is given numbers with a fraction; expected whole numbers")),
            Self::Texts(..) => Err(format!("{kind} is given texts; expected whole numbers")),
        }
    }
}

/// Undoes all encodings of `{encoding, data}`, last one first. No result is longer than `limit`.
fn decode<'a>(data: Value<'a>, limit: usize) -> Decoded<Values<'a>> {
    let mut encodings: Vec<Value<'a>> = Vec::new();
    data.need("encoding")?.each("encoding", |encoding| {
        encodings.push(encoding);
        // No column has use for more; it bounds the work on a column.
        if encodings.len() > 16 {
            return Err("more than 16 encodings".to_owned());
        }
        Ok(None::<()>)
    })?;
    undo(&encodings, Values::Bytes(data.need("data")?.binary("data")?), limit)
}

fn undo<'a>(encodings: &[Value<'a>], mut values: Values<'a>, limit: usize) -> Decoded<Values<'a>> {
    for encoding in encodings.iter().rev() {
        let kind = String::from_utf8_lossy(encoding.need("kind")?.text("kind")?).into_owned();
        values = match kind.as_str() {
            "ByteArray" => match values {
                Values::Bytes(bytes) => byte_array(bytes, encoding.need("type")?.int("type")?)?,
                _ => return Err("ByteArray is not the last encoding".to_owned()),
            },
            "FixedPoint" => {
                let factor = encoding.need("factor")?.float("factor")?;
                if factor == 0.0 || !factor.is_finite() {
                    return Err(format!("FixedPoint has the factor {factor}"));
                }
                Values::Floats(values.ints(&kind)?.into_iter().map(|v| f64::from(v) / factor).collect())
            }
            "IntervalQuantization" => {
                let low = encoding.need("min")?.float("min")?;
                let high = encoding.need("max")?.float("max")?;
                let steps = encoding.need("numSteps")?.int("numSteps")?;
                if steps < 2 || !low.is_finite() || !high.is_finite() {
                    return Err(format!("IntervalQuantization has {steps} steps from {low} to {high}"));
                }
                let step = (high - low) / (steps - 1) as f64;
                Values::Floats(values.ints(&kind)?.into_iter().map(|v| low + f64::from(v) * step).collect())
            }
            "RunLength" => {
                let size = encoding.need("srcSize")?.int("srcSize")?;
                Values::Ints(run_length(&values.ints(&kind)?, size, limit)?)
            }
            "Delta" => {
                let origin = encoding.need("origin")?.int("origin")?;
                let origin = i32::try_from(origin).map_err(|_| format!("Delta begins at {origin}"))?;
                let mut values = values.ints(&kind)?;
                let mut sum = origin;
                for value in &mut values {
                    sum = sum.wrapping_add(*value);
                    *value = sum;
                }
                Values::Ints(values)
            }
            "IntegerPacking" => {
                let size = encoding.need("srcSize")?.int("srcSize")?;
                let unsigned = match encoding.need("isUnsigned")?.head()?.0 {
                    Head::Bool(unsigned) => unsigned,
                    Head::Int(unsigned) => unsigned != 0,
                    _ => return Err("isUnsigned is neither true nor false".to_owned()),
                };
                let (low, high) = match (encoding.need("byteCount")?.int("byteCount")?, unsigned) {
                    (1, true) => (i32::MIN, 0xff),
                    (1, false) => (-0x80, 0x7f),
                    (2, true) => (i32::MIN, 0xffff),
                    (2, false) => (-0x8000, 0x7fff),
                    (other, _) => return Err(format!("IntegerPacking into {other} bytes; expected 1 or 2")),
                };
                Values::Ints(integer_packing(values.ints(&kind)?, low, high, size)?)
            }
            "StringArray" => match values {
                Values::Bytes(bytes) => string_array(*encoding, bytes, limit)?,
                _ => return Err("StringArray is not the last encoding".to_owned()),
            },
            other => return Err(format!("the encoding {} is not known", quote(other.as_bytes()))),
        };
        if values.len() > limit && !matches!(values, Values::Bytes(_)) {
            return Err(format!("{} values, more than the file has bytes", values.len()));
        }
    }
    Ok(values)
}

fn byte_array(bytes: &[u8], kind: i64) -> Decoded<Values<'static>> {
    fn wide<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Decoded<Vec<T>> {
        let (whole, rest) = bytes.as_chunks::<N>();
        if !rest.is_empty() {
            return Err(format!("{} bytes hold no whole number of values of {N} bytes", bytes.len()));
        }
        Ok(whole.iter().map(|chunk| convert(*chunk)).collect())
    }
    Ok(match kind {
        1 => Values::Ints(bytes.iter().map(|b| i32::from(b.cast_signed())).collect()),
        2 => Values::Ints(wide(bytes, |b| i32::from(i16::from_le_bytes(b)))?),
        3 => Values::Ints(wide(bytes, i32::from_le_bytes)?),
        4 => Values::Ints(bytes.iter().map(|b| i32::from(*b)).collect()),
        5 => Values::Ints(wide(bytes, |b| i32::from(u16::from_le_bytes(b)))?),
        6 => {
            let values = wide(bytes, u32::from_le_bytes)?;
            let small: std::result::Result<Vec<i32>, _> = values.into_iter().map(i32::try_from).collect();
            Values::Ints(small.map_err(|_| "an unsigned number is beyond 2147483647".to_owned())?)
        }
        32 => Values::Floats(wide(bytes, |b| f64::from(f32::from_le_bytes(b)))?),
        33 => Values::Floats(wide(bytes, f64::from_le_bytes)?),
        other => return Err(format!("ByteArray of type {other}; expected 1 to 6, 32 or 33")),
    })
}

fn run_length(pairs: &[i32], size: i64, limit: usize) -> Decoded<Vec<i32>> {
    let (pairs, rest) = pairs.as_chunks::<2>();
    // Summed before anything is allocated: the counts may claim anything.
    let mut total: u64 = 0;
    for [_, count] in pairs {
        total += u64::try_from(*count).map_err(|_| format!("RunLength repeats a value {count} times"))?;
    }
    if !rest.is_empty() || u64::try_from(size) != Ok(total) {
        return Err(format!("RunLength holds {total} values; srcSize says {size}"));
    }
    if total > limit as u64 {
        return Err(format!("RunLength holds {total} values, more than the file has bytes"));
    }
    let mut out = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for [value, count] in pairs {
        out.resize(out.len() + usize::try_from(*count).unwrap_or(0), *value);
    }
    Ok(out)
}

/// Numbers at the end of the range of a packed one are parts of a larger number.
fn integer_packing(mut values: Vec<i32>, low: i32, high: i32, size: i64) -> Decoded<Vec<i32>> {
    if i64::try_from(values.len()) != Ok(size) || values.iter().any(|v| *v == low || *v == high) {
        let mut kept = 0;
        let mut sum = 0i32;
        let mut open = false;
        for at in 0..values.len() {
            let Some(&value) = values.get(at) else { continue };
            sum = sum.wrapping_add(value);
            open = value == high || value == low;
            if !open {
                if let Some(slot) = values.get_mut(kept) {
                    *slot = sum;
                }
                kept += 1;
                sum = 0;
            }
        }
        if open {
            return Err("IntegerPacking ends in the middle of a number".to_owned());
        }
        values.truncate(kept);
    }
    if i64::try_from(values.len()) != Ok(size) {
        return Err(format!("IntegerPacking holds {} values; srcSize says {size}", values.len()));
    }
    Ok(values)
}

fn string_array<'a>(encoding: Value<'a>, bytes: &'a [u8], limit: usize) -> Decoded<Values<'a>> {
    let list = |name: &str| -> Decoded<Vec<Value<'a>>> {
        let mut out = Vec::new();
        encoding.need(name)?.each(name, |e| {
            out.push(e);
            // Texts within texts would be a way to go on for ever.
            match e.need("kind")?.text("kind")? {
                b"StringArray" => Err(format!("StringArray in {name}")),
                _ if out.len() > 16 => Err("more than 16 encodings".to_owned()),
                _ => Ok(None::<()>),
            }
        })?;
        Ok(out)
    };
    let all = encoding.need("stringData")?.binary("stringData")?;
    let offsets = Values::Bytes(encoding.need("offsets")?.binary("offsets")?);
    let offsets = undo(&list("offsetEncoding")?, offsets, limit)?.ints("StringArray")?;
    let rows = undo(&list("dataEncoding")?, Values::Bytes(bytes), limit)?.ints("StringArray")?;
    // A short table costs nothing, whatever it holds.
    if offsets.len() > rows.len().max(1 << 16) + 1 {
        return Err(format!("StringArray has {} texts for {} rows", offsets.len() - 1, rows.len()));
    }
    let mut texts: Vec<Cow<'a, [u8]>> = Vec::with_capacity(offsets.len());
    for pair in offsets.windows(2) {
        let [begin, end] = [0, 1].map(|i| pair.get(i).and_then(|o| usize::try_from(*o).ok()));
        let text = begin.zip(end).and_then(|(begin, end)| all.get(begin..end));
        texts.push(Cow::Borrowed(text.ok_or_else(|| format!("StringArray has the offsets {pair:?}"))?));
    }
    let count = texts.len() as i64;
    if let Some(wrong) = rows.iter().find(|r| i64::from(**r) >= count || **r < -1) {
        return Err(format!("text number {wrong} of {count}"));
    }
    Ok(Values::Texts(texts, rows))
}

/// Columns of `_atom_site` that are read, in the order of [`NAMES`].
#[derive(Debug, Clone, Copy)]
enum Item {
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
}

const NAMES: [&str; 17] = [
    "Cartn_x",
    "Cartn_y",
    "Cartn_z",
    "group_PDB",
    "type_symbol",
    "auth_atom_id",
    "label_atom_id",
    "label_alt_id",
    "auth_comp_id",
    "label_comp_id",
    "auth_asym_id",
    "label_asym_id",
    "auth_seq_id",
    "label_seq_id",
    "pdbx_PDB_ins_code",
    "occupancy",
    "pdbx_PDB_model_num",
];

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
    found: [Option<(Values<'a>, Option<Vec<i32>>)>; NAMES.len()],
}

impl<'a> Columns<'a> {
    fn wrong(&self, item: Item, reason: String) -> Error {
        let name = NAMES.get(item as usize).copied().unwrap_or_default();
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

pub(super) fn parse(bytes: &[u8], shown: &str, options: Options) -> Result<Structure> {
    let whole = |reason: String| broken(shown, "the file".to_owned(), reason);
    let category = atom_site(Value(bytes)).map_err(whole)?;
    let Some(category) = category else {
        return Err(Error::NoAtoms { path: shown.to_owned(), expected: "a category _atom_site".to_owned() });
    };
    read_table(columns(category, bytes.len(), shown, options.max_decompressed)?, options)
}

/// The first category `_atom_site`. Every value of the file is gone over, and once only.
fn atom_site(file: Value<'_>) -> Decoded<Option<Value<'_>>> {
    let mut found = None;
    file.over("dataBlocks", &mut |block| {
        block.over("categories", &mut |category| {
            let name = category.need("name")?.text("name")?;
            if found.is_none() && name.eq_ignore_ascii_case(b"_atom_site") {
                found = Some(category);
            }
            category.end()
        })
    })?;
    Ok(found)
}

fn columns<'a>(category: Value<'a>, limit: usize, shown: &'a str, memory: u64) -> Result<Columns<'a>> {
    let wrong = |reason: String| broken(shown, "_atom_site".to_owned(), reason);
    let rows = category.need("rowCount").and_then(|r| r.int("rowCount")).map_err(wrong)?;
    let rows = usize::try_from(rows).ok().filter(|r| *r <= limit / ROW_BYTES).ok_or_else(|| {
        wrong(format!("rowCount is {rows}, but the file has {limit} bytes; a row takes {ROW_BYTES} at least"))
    })?;
    if rows as u64 > memory / ROW_COST {
        let what = format!("has {rows} rows of {ROW_COST} bytes, which is");
        return Err(Error::Oversized { path: shown.to_owned(), what, limit: memory });
    }
    let mut columns = Columns { shown, rows, found: [const { None }; NAMES.len()] };
    // The place of what goes wrong; the columns are walked through only once.
    let mut place = "_atom_site".to_owned();
    let read = |column: Value<'a>| -> Decoded<Option<()>> {
        "_atom_site".clone_into(&mut place);
        let name = column.need("name")?.text("name")?;
        let Some(item) = NAMES.iter().position(|n| n.as_bytes().eq_ignore_ascii_case(name)) else { return Ok(None) };
        place = format!("_atom_site.{}", NAMES.get(item).copied().unwrap_or_default());
        let values = decode(column.need("data")?, limit)?;
        let mask = match column.get("mask")? {
            None => None,
            Some(mask) => Some(decode(mask, limit)?.ints("the mask")?),
        };
        let lengths = [Some(values.len()), mask.as_ref().map(Vec::len)];
        if let Some(length) = lengths.into_iter().flatten().find(|l| *l != rows) {
            return Err(format!("has {length} values; rowCount says {rows}"));
        }
        if let Some(slot) = columns.found.get_mut(item) {
            *slot = Some((values, mask));
        }
        Ok(None)
    };
    let walked = category.need("columns").and_then(|list| list.each("columns", read));
    walked.map_err(|reason| broken(shown, place, reason))?;
    Ok(columns)
}

fn check_columns(columns: &Columns<'_>) -> Result<()> {
    let mut missing: Vec<&str> = Vec::new();
    for (items, name) in [
        (&[Item::X][..], "Cartn_x"),
        (&[Item::Y], "Cartn_y"),
        (&[Item::Z], "Cartn_z"),
        (&[Item::AuthAtom, Item::LabelAtom], "auth_atom_id or label_atom_id"),
        (&[Item::AuthComp, Item::LabelComp], "auth_comp_id or label_comp_id"),
        (&[Item::AuthChain, Item::LabelChain], "auth_asym_id or label_asym_id"),
        (&[Item::AuthSeq, Item::LabelSeq], "auth_seq_id or label_seq_id"),
    ] {
        if !items.iter().any(|item| columns.has(*item)) {
            missing.push(name);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::MissingColumns { path: columns.shown.to_owned(), line: None, missing: missing.join(", ") })
}

/// A problem of one row.
fn problem(problems: &mut Problems, item: Item, row: usize, what: &str) {
    let name = NAMES.get(item as usize).copied().unwrap_or_default();
    let what = format!("_atom_site.{name}, row {}: {what}", row + 1);
    problems.push(Problem { line: 0, column: 0, column_end: 0, what });
}

fn repair(notes: &mut Notes, kind: Repair, item: Item, row: usize, what: impl FnOnce() -> String) {
    let name = NAMES.get(item as usize).copied().unwrap_or_default();
    let what = || format!("_atom_site.{name}, row {}: {}", row + 1, what());
    notes.repair(kind, || Problem { line: 0, column: 0, column_end: 0, what: what() });
}

fn read_table(mut columns: Columns<'_>, options: Options) -> Result<Structure> {
    check_columns(&columns)?;
    let shown = columns.shown;
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
    let mut component: Option<Name> = None;
    for (row, begin) in begins.into_iter().enumerate() {
        let in_model = model.rows.get(row).is_none_or(|m| *m < 0 || Some(*m) == first_model);
        if !in_model {
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
    builder.finish(shown, "rows of _atom_site")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A MessagePack value to be written.
    enum Pack<'a> {
        Int(i64),
        Float(f64),
        Bool(bool),
        Nil,
        Text(&'a str),
        Bytes(Vec<u8>),
        List(Vec<Pack<'a>>),
        Map(Vec<(&'a str, Pack<'a>)>),
    }
    use Pack::{Bool, Bytes, Float, Int, List, Map, Nil, Text};

    impl Pack<'_> {
        fn write(&self, out: &mut Vec<u8>) {
            match self {
                Int(value) => {
                    out.push(0xd3);
                    out.extend(value.to_be_bytes());
                }
                Float(value) => {
                    out.push(0xcb);
                    out.extend(value.to_be_bytes());
                }
                Bool(value) => out.push(0xc2 + u8::from(*value)),
                Nil => out.push(0xc0),
                Text(text) => {
                    out.push(0xda);
                    out.extend((text.len() as u16).to_be_bytes());
                    out.extend(text.as_bytes());
                }
                Bytes(bytes) => {
                    out.push(0xc6);
                    out.extend((bytes.len() as u32).to_be_bytes());
                    out.extend(bytes);
                }
                List(members) => {
                    out.push(0xdc);
                    out.extend((members.len() as u16).to_be_bytes());
                    members.iter().for_each(|m| m.write(out));
                }
                Map(members) => {
                    out.push(0xde);
                    out.extend((members.len() as u16).to_be_bytes());
                    for (key, value) in members {
                        Text(key).write(out);
                        value.write(out);
                    }
                }
            }
        }

        fn bytes(&self) -> Vec<u8> {
            let mut out = Vec::new();
            self.write(&mut out);
            out
        }
    }

    fn byte_array_of(kind: i64) -> Pack<'static> {
        Map(vec![("kind", Text("ByteArray")), ("type", Int(kind))])
    }

    fn data(encoding: Vec<Pack<'static>>, bytes: Vec<u8>) -> Pack<'static> {
        Map(vec![("encoding", List(encoding)), ("data", Bytes(bytes))])
    }

    fn decoded(encoding: Vec<Pack<'static>>, bytes: Vec<u8>) -> Decoded<Values<'static>> {
        let bytes: &'static [u8] = data(encoding, bytes).bytes().leak();
        decode(Value(bytes), 1000)
    }

    fn ints(values: &[i32]) -> Decoded<Values<'static>> {
        Ok(Values::Ints(values.to_vec()))
    }

    fn floats(values: &[f64]) -> Decoded<Values<'static>> {
        Ok(Values::Floats(values.to_vec()))
    }

    fn delta(origin: i64) -> Pack<'static> {
        Map(vec![("kind", Text("Delta")), ("origin", Int(origin)), ("srcType", Int(3))])
    }

    fn packing(size: i64, bytes: i64, unsigned: bool) -> Pack<'static> {
        Map(vec![
            ("kind", Text("IntegerPacking")),
            ("byteCount", Int(bytes)),
            ("isUnsigned", Bool(unsigned)),
            ("srcSize", Int(size)),
        ])
    }

    fn runs(size: i64) -> Pack<'static> {
        Map(vec![("kind", Text("RunLength")), ("srcType", Int(3)), ("srcSize", Int(size))])
    }

    fn fixed(factor: f64) -> Pack<'static> {
        Map(vec![("kind", Text("FixedPoint")), ("factor", Float(factor)), ("srcType", Int(33))])
    }

    fn quantized(low: f64, high: f64, steps: i64) -> Pack<'static> {
        Map(vec![
            ("kind", Text("IntervalQuantization")),
            ("min", Float(low)),
            ("max", Float(high)),
            ("numSteps", Int(steps)),
            ("srcType", Int(32)),
        ])
    }

    /// Little-endian words.
    fn words(values: &[i16]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    /// Little-endian numbers of four bytes.
    fn wide(values: &[i32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn refused(encoding: Vec<Pack<'static>>, bytes: Vec<u8>, text: &str) {
        let error = decoded(encoding, bytes).unwrap_err();
        assert!(error.contains(text), "{error}: should say {text:?}");
    }

    #[test]
    fn byte_array_of_every_type() {
        assert_eq!(decoded(vec![byte_array_of(1)], vec![0xff, 2, 0x80]), ints(&[-1, 2, -128]));
        assert_eq!(decoded(vec![byte_array_of(2)], words(&[-2, 1, i16::MIN])), ints(&[-2, 1, -32768]));
        assert_eq!(decoded(vec![byte_array_of(3)], wide(&[-3, i32::MAX, i32::MIN])), ints(&[-3, i32::MAX, i32::MIN]));
        assert_eq!(decoded(vec![byte_array_of(4)], vec![0xff, 0]), ints(&[255, 0]));
        assert_eq!(decoded(vec![byte_array_of(5)], words(&[-1, 1])), ints(&[65535, 1]));
        assert_eq!(decoded(vec![byte_array_of(6)], wide(&[1, i32::MAX])), ints(&[1, i32::MAX]));
        let single = [1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat();
        assert_eq!(decoded(vec![byte_array_of(32)], single), floats(&[1.5, -2.0]));
        assert_eq!(decoded(vec![byte_array_of(33)], 0.1f64.to_le_bytes().to_vec()), floats(&[0.1]));
        for kind in [1, 2, 3, 4, 5, 6, 32, 33] {
            assert_eq!(decoded(vec![byte_array_of(kind)], Vec::new()).unwrap().len(), 0, "{kind}");
        }
    }

    #[test]
    fn byte_array_errors() {
        for (kind, width) in [(2, 2), (3, 4), (5, 2), (6, 4), (32, 4), (33, 8)] {
            refused(vec![byte_array_of(kind)], vec![0; width - 1], &format!("values of {width} bytes"));
        }
        refused(vec![byte_array_of(6)], vec![255; 4], "beyond 2147483647");
        refused(vec![byte_array_of(7)], vec![1], "type 7");
        refused(vec![byte_array_of(1), byte_array_of(1)], vec![1], "ByteArray is not the last");
        refused(vec![Map(vec![("kind", Text("ByteArray"))])], vec![1], "type is missing");
        refused(vec![Map(vec![("kind", Text("Zip"))])], vec![1], "\"Zip\" is not known");
        refused(vec![Map(vec![("type", Int(1))])], vec![1], "kind is missing");
    }

    #[test]
    fn fixed_point() {
        assert_eq!(decoded(vec![fixed(1000.0), byte_array_of(3)], wide(&[1500, -1, 0])), floats(&[1.5, -0.001, 0.0]));
        let whole = Map(vec![("kind", Text("FixedPoint")), ("factor", Int(10))]);
        assert_eq!(decoded(vec![whole, byte_array_of(1)], vec![5]), floats(&[0.5]));
        for factor in [0.0, f64::INFINITY, f64::NAN] {
            refused(vec![fixed(factor), byte_array_of(1)], vec![1], "the factor");
        }
        refused(vec![fixed(10.0), byte_array_of(32)], vec![0; 4], "FixedPoint is given numbers with a fraction");
        refused(vec![fixed(10.0)], vec![0; 4], "FixedPoint is given bytes");
    }

    #[test]
    fn interval_quantization() {
        let all = decoded(vec![quantized(-1.0, 1.0, 5), byte_array_of(4)], vec![0, 1, 2, 3, 4]);
        assert_eq!(all, floats(&[-1.0, -0.5, 0.0, 0.5, 1.0]));
        for encoding in [quantized(0.0, 1.0, 1), quantized(f64::NAN, 1.0, 5), quantized(0.0, f64::INFINITY, 5)] {
            refused(vec![encoding, byte_array_of(4)], vec![0], "IntervalQuantization has");
        }
        refused(vec![quantized(0.0, 1.0, 2), byte_array_of(33)], vec![0; 8], "IntervalQuantization is given");
    }

    #[test]
    fn run_lengths() {
        assert_eq!(decoded(vec![runs(5), byte_array_of(1)], vec![7, 2, 0xff, 3]), ints(&[7, 7, -1, -1, -1]));
        assert_eq!(decoded(vec![runs(1), byte_array_of(1)], vec![7, 0, 9, 1]), ints(&[9]));
        assert_eq!(decoded(vec![runs(0), byte_array_of(1)], Vec::new()), ints(&[]));
        refused(vec![runs(5), byte_array_of(1)], vec![7, 6], "srcSize says 5");
        refused(vec![runs(7), byte_array_of(1)], vec![7, 7, 7], "srcSize says 7");
        refused(vec![runs(5), byte_array_of(1)], vec![7, 0xff], "-1 times");
        refused(vec![runs(2_000_000_000), byte_array_of(3)], wide(&[1, 2_000_000_000]), "more than the file has bytes");
        refused(vec![runs(1), byte_array_of(33)], vec![0; 8], "RunLength is given");
    }

    #[test]
    fn deltas() {
        assert_eq!(decoded(vec![delta(10), byte_array_of(1)], vec![0, 1, 0xfe]), ints(&[10, 11, 9]));
        assert_eq!(decoded(vec![delta(-3), byte_array_of(3)], wide(&[3, 1000])), ints(&[0, 1000]));
        refused(vec![delta(1 << 40), byte_array_of(1)], vec![0], "Delta begins at 1099511627776");
        refused(vec![delta(0), fixed(1.0), byte_array_of(1)], vec![1], "Delta is given numbers with a fraction");
        refused(vec![delta(0)], vec![1], "Delta is given bytes");
    }

    #[test]
    fn integer_packing_into_signed_bytes() {
        // 127 + 3; -128 - 128 - 1; 5; 127 + 0; -128 + 0
        let packed = vec![127, 3, 0x80, 0x80, 0xff, 5, 127, 0, 0x80, 0];
        let values = [130, -257, 5, 127, -128];
        assert_eq!(decoded(vec![packing(5, 1, false), byte_array_of(1)], packed), ints(&values));
    }

    #[test]
    fn integer_packing_into_unsigned_bytes() {
        let packed = vec![255, 0, 9, 255, 255, 1];
        assert_eq!(decoded(vec![packing(3, 1, true), byte_array_of(4)], packed), ints(&[255, 9, 511]));
    }

    #[test]
    fn integer_packing_into_signed_words() {
        let packed = words(&[i16::MAX, 1, i16::MIN, i16::MIN, -2, 7, i16::MAX, 0]);
        let values = [32768, -65538, 7, 32767];
        assert_eq!(decoded(vec![packing(4, 2, false), byte_array_of(2)], packed), ints(&values));
    }

    #[test]
    fn integer_packing_into_unsigned_words() {
        let packed = words(&[-1, 1, 2, -1, -1, 0]);
        assert_eq!(decoded(vec![packing(3, 2, true), byte_array_of(5)], packed), ints(&[65536, 2, 131_070]));
    }

    #[test]
    fn integer_packing_errors() {
        refused(vec![packing(1, 1, false), byte_array_of(1)], vec![127], "in the middle of a number");
        refused(vec![packing(1, 2, true), byte_array_of(5)], vec![0xff; 2], "in the middle of a number");
        refused(vec![packing(2, 1, false), byte_array_of(1)], vec![1], "srcSize says 2");
        refused(vec![packing(1, 3, false), byte_array_of(1)], vec![1], "3 bytes");
        refused(vec![packing(1, 1, true), byte_array_of(32)], vec![0; 4], "IntegerPacking is given");
        let odd = Map(vec![
            ("kind", Text("IntegerPacking")),
            ("byteCount", Int(1)),
            ("isUnsigned", Text("no")),
            ("srcSize", Int(1)),
        ]);
        refused(vec![odd, byte_array_of(1)], vec![1], "neither true nor false");
    }

    #[test]
    fn chains_of_encodings() {
        let packed = || packing(2, 1, false);
        let chain = vec![fixed(1000.0), delta(0), packed(), byte_array_of(1)];
        assert_eq!(decoded(chain, vec![127, 127, 1, 0xff]), floats(&[0.255, 0.254]));
        let chain = vec![delta(1), runs(4), packed(), byte_array_of(1)];
        assert_eq!(decoded(chain, vec![1, 4]), ints(&[2, 3, 4, 5]));
        let chain = vec![delta(1), runs(200), packed(), byte_array_of(1)];
        assert_eq!(decoded(chain, vec![0, 127, 73]).unwrap().len(), 200);
        let chain = vec![quantized(0.0, 10.0, 11), delta(0), byte_array_of(1)];
        assert_eq!(decoded(chain, vec![3, 4]), floats(&[3.0, 7.0]));
        let chain = (0..17).map(|_| delta(0)).chain([byte_array_of(1)]).collect();
        refused(chain, vec![1], "more than 16 encodings");
    }

    /// A StringArray of pieces of "CAN".
    fn texts_by(
        offsets: Pack<'static>,
        offset_encoding: Vec<Pack<'static>>,
        rows: Vec<Pack<'static>>,
    ) -> Pack<'static> {
        Map(vec![
            ("kind", Text("StringArray")),
            ("stringData", Text("CAN")),
            ("offsets", offsets),
            ("offsetEncoding", List(offset_encoding)),
            ("dataEncoding", List(rows)),
        ])
    }

    fn texts(offsets: &[u8], rows: &[u8]) -> (Vec<Pack<'static>>, Vec<u8>) {
        let encoding = texts_by(Bytes(offsets.to_vec()), vec![byte_array_of(4)], vec![byte_array_of(1)]);
        (vec![encoding], rows.to_vec())
    }

    #[test]
    fn string_array() {
        let expected =
            |rows: &[i32]| Ok(Values::Texts(vec![Cow::Borrowed(&b"CA"[..]), Cow::Borrowed(b"N")], rows.to_vec()));
        let (encoding, bytes) = texts(&[0, 2, 3], &[1, 0, 0xff, 0]);
        assert_eq!(decoded(encoding, bytes), expected(&[1, 0, -1, 0]));
        // Offsets and rows have chains of their own.
        let offsets = vec![delta(0), packing(3, 1, true), byte_array_of(4)];
        let rows = vec![runs(5), byte_array_of(1)];
        let encoding = texts_by(Bytes(vec![0, 2, 1]), offsets, rows);
        assert_eq!(decoded(vec![encoding], vec![1, 2, 0, 3]), expected(&[1, 1, 0, 0, 0]));
    }

    #[test]
    fn string_array_errors() {
        for (offsets, rows, text) in [
            (&[0, 9][..], &[0][..], "the offsets"),
            (&[2, 0], &[0], "the offsets"),
            (&[0, 2], &[1], "text number 1 of 1"),
            (&[0, 2], &[0xfe], "text number -2 of 1"),
        ] {
            let (encoding, bytes) = texts(offsets, rows);
            refused(encoding, bytes, text);
        }
        let inner = || texts_by(Bytes(vec![0, 1]), vec![byte_array_of(4)], vec![byte_array_of(1)]);
        let nested = texts_by(Bytes(vec![0, 1]), vec![byte_array_of(4)], vec![inner()]);
        refused(vec![nested], vec![0], "StringArray in dataEncoding");
        refused(vec![inner(), byte_array_of(1)], vec![0], "StringArray is not the last");
        refused(vec![fixed(1.0), inner()], vec![0], "FixedPoint is given texts");
        let many = texts_by(Bytes(vec![0; 70_000]), vec![byte_array_of(4)], vec![byte_array_of(1)]);
        let bytes: &'static [u8] = data(vec![many], vec![0]).bytes().leak();
        let error = decode(Value(bytes), 100_000).unwrap_err();
        assert!(error.contains("69999 texts for 1 rows"), "{error}");
    }

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

    #[test]
    fn deep_nesting_is_no_problem() {
        let mut bytes = vec![0x91; 200_000];
        bytes.push(0xc0);
        assert_eq!(Value(&bytes).end(), Ok(&[][..]));
        assert!(Value(&bytes[..100]).end().is_err());
    }

    #[test]
    fn all_heads() {
        for (bytes, head) in [
            (&[0x05][..], Head::Int(5)),
            (&[0xe0], Head::Int(-32)),
            (&[0xcc, 200], Head::Int(200)),
            (&[0xcd, 1, 0], Head::Int(256)),
            (&[0xd0, 0xff], Head::Int(-1)),
            (&[0xd1, 0xff, 0], Head::Int(-256)),
            (&[0xca, 0x3f, 0x80, 0, 0], Head::Float(1.0)),
            (&[0xa1, b'x'], Head::Text(b"x")),
            (&[0xd9, 1, b'x'], Head::Text(b"x")),
            (&[0xc4, 1, 9], Head::Binary(&[9])),
            (&[0xd5, 0, 1, 2], Head::Extension),
            (&[0xc7, 1, 0, 9], Head::Extension),
            (&[0x90], Head::Array(0)),
            (&[0x80], Head::Map(0)),
            (&[0xc3], Head::Bool(true)),
        ] {
            assert_eq!(Value(bytes).head(), Ok((head, &[][..])), "{bytes:?}");
        }
    }
}
