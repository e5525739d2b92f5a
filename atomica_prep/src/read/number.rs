//! Short words of text files as numbers: up to eight bytes are worked on at once, in one register.
//!
//! A short word is a little-endian `u64` with its first byte lowest and zeros behind its last.

/// 1 in every byte.
pub(super) const ONES: u64 = 0x0101_0101_0101_0101;
/// '0' in every byte.
const ZEROS: u64 = 0x30 * ONES;

/// Powers of ten that a double holds exactly and that up to 15 digits need.
const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// A blank in every byte.
pub(super) const BLANKS: u64 = 0x20 * ONES;

/// How many bytes at the front are blanks.
#[inline]
pub(super) fn blanks_before(word: u64) -> u32 {
    (word ^ BLANKS).trailing_zeros() / 8
}

/// Whether the first `length` of eight bytes, and the others zero, are blanks and then digits, one at least.
#[inline]
pub(super) fn all_digits(word: u64, length: u32) -> bool {
    let before = blanks_before(word);
    let Some(filler) = before.checked_sub(length).is_none().then(|| (1u64 << (8 * before)) - 1) else { return false };
    let behind = u64::MAX.checked_shl(8 * length).unwrap_or(0);
    eight_digits((word & !filler) | (ZEROS & (filler | behind))).is_some()
}

/// The first `length` bytes of eight, as a short word.
#[inline]
pub(super) fn short(bytes: [u8; 8], length: usize) -> u64 {
    let word = u64::from_le_bytes(bytes);
    match length {
        0 => 0,
        1..8 => word & (u64::MAX >> (64 - 8 * length)),
        _ => word,
    }
}

/// A decimal number in a field with blanks around it, correctly rounded; `None` for what is no finite number.
#[inline]
pub(super) fn decimal(field: &[u8]) -> Option<f64> {
    let field = field.trim_ascii();
    let (negative, digits) = match field.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, field),
    };
    // At most 15 digits, so mantissa and power are exact and one division rounds correctly.
    let mut mantissa: u64 = 0;
    let mut after_point: Option<usize> = None;
    let mut seen = 0;
    for &c in digits {
        match c {
            b'0'..=b'9' => {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(c - b'0'));
                seen += 1;
                if let Some(n) = after_point.as_mut() {
                    *n += 1;
                }
            }
            b'.' if after_point.is_none() => after_point = Some(0),
            _ => return general(field),
        }
    }
    if seen == 0 || seen > 15 {
        return general(field);
    }
    let value = mantissa as f64 / POWERS.get(after_point.unwrap_or(0))?;
    Some(if negative { -value } else { value })
}

#[cold]
fn general(field: &[u8]) -> Option<f64> {
    fast_float2::parse::<f64, _>(field).ok().filter(|v| v.is_finite())
}

/// [`decimal`] of a short word such as `-12.345`: a sign or none, digits, and a point among or before them.
///
/// `None` for every other word, which may be a number all the same.
#[inline]
pub(super) fn short_decimal(word: u64, length: usize) -> Option<f64> {
    let negative = word & 0xff == u64::from(b'-');
    let (word, length) = if negative { (word >> 8, length.saturating_sub(1)) } else { (word, length) };
    // The lowest bit that this sets is that of the first point; bytes above it may be wrong and do not matter.
    let points = word ^ (u64::from(b'.') * ONES);
    let points = points.wrapping_sub(ONES) & !points & (0x80 * ONES);
    if points == 0 || !(2..=8).contains(&length) {
        return None;
    }
    let before = points.trailing_zeros() & !7;
    let low = (1u64 << before) - 1;
    let digits = (word & low) | ((word >> 8) & !low);
    let count = length - 1;
    // To the right end, with zeros before.
    let digits = (digits << (64 - 8 * count)) | (ZEROS >> (8 * count));
    let value = eight_digits(digits)? as f64 / POWERS.get(count - (before as usize / 8))?;
    Some(if negative { -value } else { value })
}

/// The number that eight digits write.
#[inline]
fn eight_digits(text: u64) -> Option<u64> {
    // A byte that is no digit, or becomes none when 6 is added, has a high half other than 3.
    let high = 0xf0 * ONES;
    if text & high != ZEROS || text.wrapping_add(6 * ONES) & high != ZEROS {
        return None;
    }
    // Neighbours are joined: digits to pairs, pairs to fours, fours to the number.
    let pairs = (text & (0x0f * ONES)).wrapping_mul(1 + (10 << 8)) >> 8;
    let fours = (pairs & 0x00ff_00ff_00ff_00ff).wrapping_mul(1 + (100 << 16)) >> 16;
    Some((fours & 0x0000_ffff_0000_ffff).wrapping_mul(1 + (10_000 << 32)) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &[u8]) -> Option<f64> {
        let mut bytes = [0; 8];
        bytes[..text.len()].copy_from_slice(text);
        short_decimal(short(bytes, text.len()), text.len())
    }

    #[test]
    fn numbers() {
        assert_eq!(decimal(b"  11.104"), Some(11.104));
        assert_eq!(decimal(b"-999.999"), Some(-999.999));
        assert_eq!(decimal(b"1e2"), Some(100.0));
        assert_eq!(decimal(b"12"), Some(12.0));
        for wrong in [&b""[..], b"   ", b"1.2.3", b"--1", b"nan", b"inf", b"1 2", b".", b"-"] {
            assert_eq!(decimal(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn digits_behind_blanks() {
        for (text, wanted) in [
            (b"12345", true),
            (b"    1", true),
            (b"  0 1", false),
            (b"     ", false),
            (b"1    ", false),
            (b"A0000", false),
            (b"  -12", false),
            (b"*****", false),
        ] {
            let mut bytes = [0; 8];
            bytes[..5].copy_from_slice(text);
            assert_eq!(all_digits(u64::from_le_bytes(bytes), 5), wanted, "{text:?}");
        }
        assert!(all_digits(u64::from_le_bytes(*b"12345678"), 8));
        assert!(!all_digits(u64::from_le_bytes(*b"        "), 8));
    }

    #[test]
    fn short_words_are_read_as_the_general_parser_reads_them() {
        // All texts of up to four of these, and the same around a longer middle.
        let letters = b"-+.019 e\0/:\xb1";
        let mut texts: Vec<Vec<u8>> = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..4 {
            let end = texts.len();
            for i in from..end {
                for letter in letters {
                    let mut text = texts[i].clone();
                    text.push(*letter);
                    texts.push(text);
                }
            }
            from = end;
        }
        let mut read = 0;
        for text in &texts {
            for middle in [&b""[..], b"1.25", b"9999", b"00.0"] {
                let whole = [&text[..text.len() / 2], middle, &text[text.len() / 2..]].concat();
                if let Some(value) = word(&whole) {
                    read += 1;
                    let wanted: f64 = std::str::from_utf8(&whole).unwrap().parse().unwrap();
                    assert_eq!(value.to_bits(), wanted.to_bits(), "{whole:?}");
                    assert_eq!(decimal(&whole).map(f64::to_bits), Some(value.to_bits()));
                }
            }
        }
        assert!(read > 500, "{read}");
    }

    #[test]
    fn every_coordinate_is_rounded_correctly() {
        for milli in (-9_999_999i64..=99_999_999).step_by(997).chain(-1500..=1500) {
            let text = format!("{}{}.{:03}", if milli < 0 { "-" } else { "" }, milli.abs() / 1000, milli.abs() % 1000);
            let wanted: f64 = text.parse().unwrap();
            if text.len() <= 8 {
                assert_eq!(word(text.as_bytes()).map(f64::to_bits), Some(wanted.to_bits()), "{text}");
            }
            assert_eq!(decimal(text.as_bytes()).map(f64::to_bits), Some(wanted.to_bits()), "{text}");
        }
    }
}
