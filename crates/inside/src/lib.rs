//! The programs of Torno's own that run inside containers.
//!
//! Each is one file below `programs/`, with nothing but the standard library, linked statically: alone in an image it
//! runs on any engine. They travel inside the binary, so that a site has nothing to fetch. What is here knows nothing of
//! engines; whoever puts a program into one is the executor.

/// Tries one thing that a run must not be able to do, and says whether it could.
pub const PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/probe"));

#[cfg(test)]
mod tests {
    /// What asks for a dynamic linker has a program header of this type (ELF-64: `PT_INTERP`).
    const INTERPRETER: usize = 3;

    fn header_types(program: &[u8]) -> Vec<usize> {
        let number = |at: usize, bytes: usize| {
            program[at..at + bytes].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
        };
        let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        (0..count).map(|header| number(headers + header * size, 4)).collect()
    }

    #[test]
    fn the_probe_needs_nothing_beside_it() {
        assert!(super::PROBE.starts_with(b"\x7fELF\x02\x01"), "a program for 64 bits, little-endian");
        let types = header_types(super::PROBE);
        assert!(!types.is_empty() && !types.contains(&INTERPRETER), "{types:?}");
    }
}
