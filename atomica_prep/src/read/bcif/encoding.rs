//! The encodings of columns, undone. No result is longer than the caller allows.

use std::borrow::Cow;

use super::pack::{Decoded, Head, Value};
use crate::error::quote;

/// Values of a column on their way through the encodings.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values<'a> {
    Bytes(&'a [u8]),
    Ints(Vec<i32>),
    Floats(Vec<f64>),
    /// Distinct texts, and for every row which of them; -1 for none.
    Texts(Vec<Cow<'a, [u8]>>, Vec<i32>),
}

impl Values<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Ints(values) | Self::Texts(_, values) => values.len(),
            Self::Floats(values) => values.len(),
        }
    }

    pub(super) fn ints(self, kind: &str) -> Decoded<Vec<i32>> {
        match self {
            Self::Ints(values) => Ok(values),
            Self::Bytes(_) => Err(format!("{kind} is given bytes; expected whole numbers")),
            Self::Floats(_) => Err(format!("{kind} is given numbers with a fraction; expected whole numbers")),
            Self::Texts(..) => Err(format!("{kind} is given texts; expected whole numbers")),
        }
    }
}

/// Undoes all encodings of `{encoding, data}`, last one first. No result is longer than `limit`.
pub(super) fn decode<'a>(data: Value<'a>, limit: usize) -> Decoded<Values<'a>> {
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

#[cfg(test)]
mod tests {
    use super::super::written::Pack::{self, Bool, Bytes, Float, Int, Map, Text};
    use super::super::written::{byte_array_of, data, texts, texts_by};
    use super::*;

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
}
