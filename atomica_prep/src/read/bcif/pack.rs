//! MessagePack, as far as BinaryCIF uses it: values are read where they lie, and no length is trusted.

/// What is wrong, without the place, which the caller knows.
pub(super) type Decoded<T> = std::result::Result<T, String>;

/// A MessagePack value that has not been looked into: the bytes from its first one on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'a>(pub(super) &'a [u8]);

/// The first thing of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Head<'a> {
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
    pub(super) fn head(self) -> Decoded<(Head<'a>, &'a [u8])> {
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
    pub(super) fn end(self) -> Decoded<&'a [u8]> {
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
    pub(super) fn get(self, name: &str) -> Decoded<Option<Value<'a>>> {
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

    pub(super) fn need(self, name: &str) -> Decoded<Value<'a>> {
        self.get(name)?.ok_or_else(|| format!("{name} is missing"))
    }

    /// Calls `visit` with every member of an array until it says that it has seen enough.
    pub(super) fn each<T>(
        self,
        what: &str,
        mut visit: impl FnMut(Value<'a>) -> Decoded<Option<T>>,
    ) -> Decoded<Option<T>> {
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
    pub(super) fn over(self, name: &str, visit: &mut dyn FnMut(Value<'a>) -> Decoded<&'a [u8]>) -> Decoded<&'a [u8]> {
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

    pub(super) fn text(self, what: &str) -> Decoded<&'a [u8]> {
        match self.head()?.0 {
            Head::Text(text) => Ok(text),
            _ => Err(format!("{what} is no text")),
        }
    }

    /// Bytes; old writers put them into a text.
    pub(super) fn binary(self, what: &str) -> Decoded<&'a [u8]> {
        match self.head()?.0 {
            Head::Binary(bytes) | Head::Text(bytes) => Ok(bytes),
            _ => Err(format!("{what} holds no bytes")),
        }
    }

    pub(super) fn int(self, what: &str) -> Decoded<i64> {
        match self.head()?.0 {
            Head::Int(value) => Ok(value),
            Head::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => Ok(value as i64),
            _ => Err(format!("{what} is no whole number")),
        }
    }

    pub(super) fn float(self, what: &str) -> Decoded<f64> {
        match self.head()?.0 {
            Head::Int(value) => Ok(value as f64),
            Head::Float(value) => Ok(value),
            _ => Err(format!("{what} is no number")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
