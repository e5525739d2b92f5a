//! Gzip in one piece, in less than half of the time that a stream takes.

use std::ptr::NonNull;

use libdeflate_sys::{
    libdeflate_alloc_decompressor, libdeflate_decompressor, libdeflate_free_decompressor,
    libdeflate_gzip_decompress_ex, libdeflate_result_LIBDEFLATE_SUCCESS,
};

/// Owns a decompressor of libdeflate.
struct Decompressor(NonNull<libdeflate_decompressor>);

impl Decompressor {
    fn new() -> Option<Self> {
        // SAFETY: it takes nothing; null, where there is no memory, is not kept.
        NonNull::new(unsafe { libdeflate_alloc_decompressor() }).map(Self)
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: it came from libdeflate and is given back once.
        unsafe { libdeflate_free_decompressor(self.0.as_ptr()) }
    }
}

thread_local! {
    static DECOMPRESSOR: Option<Decompressor> = Decompressor::new();
}

/// Unpacks a file that is one gzip member, of at most `limit` bytes unpacked, and checks its checksum.
///
/// `None` for anything else: several members, something behind the member, damage, too many bytes, or more than such
/// files ever pack to. A stream can read what of these can be read, and say what is wrong with the others.
pub(super) fn gunzip(raw: &[u8], limit: u64) -> Option<Vec<u8>> {
    /// Structures pack to a fifth or so. Memory for more is taken only as it is needed, by a stream.
    const MOST: usize = 32;
    let size = usize::try_from(u32::from_le_bytes(*raw.last_chunk()?)).ok()?;
    if size as u64 > limit || size > raw.len().saturating_mul(MOST) {
        return None;
    }
    let mut out: Vec<u8> = Vec::with_capacity(size);
    let (mut taken, mut given) = (0, 0);
    let result = DECOMPRESSOR.try_with(|decompressor| {
        let decompressor = decompressor.as_ref()?.0.as_ptr();
        let (from, to) = (raw.as_ptr().cast(), out.as_mut_ptr().cast());
        // SAFETY: both buffers have the lengths given, and the decompressor is of this thread alone.
        Some(unsafe { libdeflate_gzip_decompress_ex(decompressor, from, raw.len(), to, size, &mut taken, &mut given) })
    });
    if result != Ok(Some(libdeflate_result_LIBDEFLATE_SUCCESS)) || taken != raw.len() || given != size {
        return None;
    }
    // SAFETY: so many bytes have been written, and they fit.
    unsafe { out.set_len(given) };
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// The slow twin.
    fn stream(raw: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        flate2::read::MultiGzDecoder::new(raw).read_to_end(&mut out).ok().map(|_| out)
    }

    /// Lines that differ, so that there is something to pack.
    fn text(lines: usize) -> Vec<u8> {
        (0..lines)
            .flat_map(|i| format!("ATOM  {:>5}  CA  ALA A{:>8.3}\n", i, (i * i) as f64 * 0.37).into_bytes())
            .collect()
    }

    #[test]
    fn whole_files_are_unpacked() {
        for lines in [0, 1, 50, 20_000] {
            let text = text(lines);
            assert_eq!(gunzip(&pack(&text), u64::MAX), Some(text));
        }
    }

    #[test]
    fn what_is_not_one_member_is_left_to_the_stream() {
        let one = pack(&text(50));
        let twice = [one.as_slice(), &one].concat();
        assert_eq!(stream(&twice).map(|text| text.len()), Some(2 * text(50).len()));
        let zeros = pack(&[0; 100_000]);
        for raw in [&twice, &[one.as_slice(), &[0; 9]].concat(), &zeros, &b"ATOM  ".to_vec(), &vec![], &vec![0; 40]] {
            assert_eq!(gunzip(raw, u64::MAX), None);
        }
        let size = text(50).len() as u64;
        assert_eq!((gunzip(&one, size - 1), gunzip(&one, size).is_some()), (None, true));
    }

    #[test]
    fn damage_is_never_taken_for_a_file() {
        let whole = pack(&text(40));
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut raw = whole.clone();
                raw[at] ^= 1 << bit;
                if let Some(text) = gunzip(&raw, u64::MAX) {
                    assert_eq!(Some(text), stream(&raw), "bit {bit} of byte {at}");
                }
            }
            assert_eq!(gunzip(&whole[..at], u64::MAX), None, "{at} bytes of it");
        }
    }
}
