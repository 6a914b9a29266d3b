//! The programs of Torno's own that run inside containers.
//!
//! Each is a folder or a file below `programs/`, with nothing but the standard library, linked statically: alone in an image it
//! runs on any engine. They travel inside the binary, so that a site has nothing to fetch. What is here knows nothing of
//! engines; whoever puts a program into one is the executor.

mod attack;

pub use attack::{ATTACKS, Against, Attack, attack};

/// The variable that names what the probe tries, with spaces between, when it is started without arguments.
pub const PROBE_ATTACKS: &str = "PROBE_ATTACKS";
/// What the probe says first, without arguments, on a kernel of gVisor's.
pub const PROBE_GVISOR: &str = "kernel gvisor";

/// Tries one thing that a run must not be able to do, and says whether it could.
pub const PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/probe"));

/// Passes connections out of a run's network namespace to the executor's sockets.
pub const RELAY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/relay"));

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    /// What asks for a dynamic linker has a program header of this type (ELF-64: `PT_INTERP`).
    const INTERPRETER: usize = 3;

    fn header_types(program: &[u8]) -> Vec<usize> {
        let number = |at: usize, bytes: usize| {
            program[at..at + bytes].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
        };
        let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        (0..count).map(|header| number(headers + header * size, 4)).collect()
    }

    /// While another thread starts a program, that has for a moment whatever this one writes open, and what is open for
    /// writing cannot be started (`ETXTBSY`).
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

    /// Outside a container only what harms nobody is asked of it.
    fn probe(argument: &str) -> std::process::Output {
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let folder = std::env::temp_dir().join(format!("torno-probe-{}-{argument}", std::process::id()));
        std::fs::write(&folder, super::PROBE).expect("write");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).expect("a mode");
        let output = std::process::Command::new(&folder).arg(argument).output();
        std::fs::remove_file(&folder).expect("remove");
        output.expect("the probe")
    }

    #[test]
    fn the_table_and_the_probe_know_the_same_attacks() {
        let known = String::from_utf8(probe("list").stdout).expect("UTF-8");
        let names: Vec<&str> = super::ATTACKS.iter().map(|attack| attack.name).collect();
        assert_eq!(known.lines().collect::<Vec<_>>(), names);
    }

    #[test]
    fn what_the_probe_does_not_know_is_neither_kept_nor_broken() {
        let output = probe("nonsense");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b"no such attack\n"[..]));
    }

    #[test]
    fn attacks_are_told_apart_by_name_and_each_has_a_promise() {
        let names: std::collections::BTreeSet<&str> =
            super::ATTACKS.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), super::ATTACKS.len());
        for attack in super::ATTACKS {
            assert!(attack.promise.ends_with('.') && !attack.remedy.is_empty(), "{attack:?}");
            assert_eq!(super::attack(attack.name), Some(attack));
        }
    }

    #[test]
    fn the_programs_need_nothing_beside_them() {
        for program in [super::PROBE, super::RELAY] {
            assert!(program.starts_with(b"\x7fELF\x02\x01"), "a program for 64 bits, little-endian");
            let types = header_types(program);
            assert!(!types.is_empty() && !types.contains(&INTERPRETER), "{types:?}");
        }
    }
}
