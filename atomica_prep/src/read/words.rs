//! The words of a line of a table, sixty-four bytes at a time.
//!
//! Lines that are more than words and blanks are left to a tokenizer of the whole syntax.

use memchr::memchr;

use super::number::{short, BLANKS, ONES};

/// Most words that are looked for in a line.
pub(super) const MOST: usize = 32;
/// The longest line that is looked at.
const LONGEST: usize = 256;

/// Where the words of a line begin and end.
#[derive(Debug)]
pub(super) struct Words<'a> {
    /// From the line's first byte on, to the end of the file.
    text: &'a [u8],
    /// Bytes of the line, without what ends it.
    length: usize,
    /// Beginning and end of each word, one after the other.
    edges: [u16; 2 * MOST],
    count: usize,
}

/// A word of eight bytes at most, see [`super::number`], and its length.
pub(super) type Short = (u64, usize);

/// What a word can be that begins with a byte.
const PLAIN: u8 = 0;
/// `'` or `"`: quoted.
const QUOTE: u8 = 1;
/// The letters of `loop_`, `data_`, `save_` and `global_`: a word that is no value.
const KEYWORD: u8 = 2;
/// A tag or a comment.
const OTHER: u8 = 4;

/// By first byte, what a word can be; made at compile time.
static CLASSES: [u8; 256] = classes();

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler on constants only")]
const fn classes() -> [u8; 256] {
    let mut table = [PLAIN; 256];
    table[b'\'' as usize] = QUOTE;
    table[b'"' as usize] = QUOTE;
    table[b'_' as usize] = OTHER;
    table[b'#' as usize] = OTHER;
    let letters = *b"lLdDsSgG";
    let mut i = 0;
    while i < letters.len() {
        table[letters[i] as usize] = KEYWORD;
        i += 1;
    }
    table
}

impl<'a> Words<'a> {
    pub(super) fn new() -> Self {
        Self { text: &[], length: 0, edges: [0; 2 * MOST], count: 0 }
    }

    /// Cuts the line at the front of `text` into exactly `count` words; gives its length, that of its end included.
    ///
    /// `None` if it has another number of words, or anything in it that is not a plain value or one in simple quotes.
    #[inline]
    pub(super) fn cut(&mut self, text: &'a [u8], count: usize) -> Option<usize> {
        let end = memchr(b'\n', text)?;
        let line = text.get(..end)?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.first() == Some(&b';') || line.len() > LONGEST || count > MOST {
            return None;
        }
        self.text = text;
        self.length = line.len();
        self.count = count;
        let found = self.find_edges()?;
        if found != 2 * count {
            return None;
        }
        self.check().then_some(end + 1)
    }

    /// Fills `edges`; gives how many there are.
    #[inline]
    fn find_edges(&mut self) -> Option<usize> {
        let mut found = 0;
        let mut blank_before = 1;
        let mut control = 0;
        let mut at = 0;
        while at < self.length {
            let (mut blanks, odd) = blanks_of(self.text.get(at..)?.first_chunk::<64>()?);
            let rest = self.length - at;
            if rest < 64 {
                blanks |= u64::MAX << rest;
                control |= odd & !(u64::MAX << rest);
            } else {
                control |= odd;
            }
            // A bit for each byte that is blank after a byte that is not, or the other way round.
            let mut changes = blanks ^ (blanks << 1 | blank_before);
            blank_before = blanks >> 63;
            while changes != 0 {
                *self.edges.get_mut(found)? = (at as u64 + u64::from(changes.trailing_zeros())) as u16;
                found += 1;
                changes &= changes - 1;
            }
            at += 64;
        }
        if found % 2 == 1 {
            *self.edges.get_mut(found)? = self.length as u16;
            found += 1;
        }
        (control == 0).then_some(found)
    }

    /// Looks at the first bytes of all words, and takes quotes off.
    #[inline]
    fn check(&mut self) -> bool {
        let mut classes = PLAIN;
        let (pairs, _) = self.edges.as_chunks::<2>();
        for [begin, _] in pairs.iter().take(self.count) {
            let first = self.text.get(usize::from(*begin)).copied().unwrap_or_default();
            classes |= CLASSES.get(usize::from(first)).copied().unwrap_or(OTHER);
        }
        // Many a chain or residue begins with one of these letters: whether it goes on is worth a look.
        classes < KEYWORD && classes & QUOTE == 0 || self.check_each()
    }

    fn check_each(&mut self) -> bool {
        let (pairs, _) = self.edges.as_chunks_mut::<2>();
        for [begin, end] in pairs.iter_mut().take(self.count) {
            let word = self.text.get(usize::from(*begin)..usize::from(*end)).unwrap_or_default();
            let first = word.first().copied().unwrap_or_default();
            match CLASSES.get(usize::from(first)).copied().unwrap_or(OTHER) {
                PLAIN => {}
                KEYWORD if word.len() < 5 || !word.contains(&b'_') => {}
                QUOTE => {
                    let inner = word.strip_prefix(&[first]).and_then(|w| w.strip_suffix(&[first]));
                    // Values that mean something else without their quotes are left alone.
                    if inner.is_none_or(|w| matches!(w, b"" | b"." | b"?")) {
                        return false;
                    }
                    *begin += 1;
                    *end -= 1;
                }
                _ => return false,
            }
        }
        true
    }

    /// A word.
    #[inline]
    pub(super) fn get(&self, index: usize) -> &'a [u8] {
        let (begin, end) = self.edges_of(index);
        self.text.get(begin..end).unwrap_or_default()
    }

    /// The column, from 1, where a word begins, its quote included.
    pub(super) fn column(&self, index: usize) -> u64 {
        let begin = self.edges_of(index).0;
        let quoted = begin.checked_sub(1).and_then(|before| self.text.get(before)).is_some_and(|c| *c != b' ');
        (begin + usize::from(!quoted)) as u64
    }

    /// A word of eight bytes at most.
    #[inline]
    pub(super) fn short(&self, index: usize) -> Option<Short> {
        let (begin, end) = self.edges_of(index);
        let length = end - begin;
        let bytes = self.text.get(begin..)?.first_chunk::<8>()?;
        (length <= 8).then(|| (short(*bytes, length), length))
    }

    #[inline]
    fn edges_of(&self, index: usize) -> (usize, usize) {
        let (pairs, _) = self.edges.as_chunks::<2>();
        pairs.get(index).map_or((0, 0), |[begin, end]| (usize::from(*begin), usize::from(*end)))
    }
}

/// A bit for each byte that is a blank, and something other than 0 if a byte is a control character.
#[inline]
fn blanks_of(bytes: &[u8; 64]) -> (u64, u64) {
    let (words, _) = bytes.as_chunks::<8>();
    let mut blanks = 0;
    let mut control = 0;
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let low = 0x7f * ONES;
        let other = word ^ BLANKS;
        // The high bit of each byte: set where the byte is a blank.
        let blank = !(((other & low) + low) | other | low);
        // The multiplication brings the eight bits together at the top.
        let bits = (blank >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        blanks |= bits << (8 * i);
        let upper = word & (0xe0 * ONES);
        let small = !(((upper & low) + low) | upper | low);
        let bits = (small >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        control |= bits << (8 * i);
    }
    (blanks, control)
}
