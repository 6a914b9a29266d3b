//! The kernel's own interface, for what the standard library has no words for.
#![expect(
    unsafe_code,
    reason = "system calls by their number are what is tried here, and only inside containers"
)]

use std::{
    ffi::{CStr, c_long},
    io,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// Numbers of system calls: on x86-64, on 64-bit ARM.
macro_rules! numbers {
    ($($name:ident: $x86:literal, $arm:literal;)+) => {
        $(pub(crate) const $name: c_long = if cfg!(target_arch = "aarch64") { $arm } else { $x86 };)+
    };
}

numbers! {
    SHMGET: 29, 194;
    SOCKET: 41, 198;
    CLONE: 56, 220;
    EXIT_GROUP: 231, 94;
    WAIT4: 61, 260;
    PTRACE: 101, 117;
    SYSLOG: 103, 116;
    SETUID: 105, 146;
    SETGID: 106, 144;
    SETGROUPS: 116, 159;
    SETPRIORITY: 141, 140;
    SCHED_SETSCHEDULER: 144, 119;
    PIVOT_ROOT: 155, 41;
    ADJTIMEX: 159, 171;
    CHROOT: 161, 51;
    ACCT: 163, 89;
    MOUNT: 165, 40;
    SWAPON: 167, 224;
    REBOOT: 169, 142;
    SETHOSTNAME: 170, 161;
    INIT_MODULE: 175, 105;
    DELETE_MODULE: 176, 106;
    KEXEC_LOAD: 246, 104;
    ADD_KEY: 248, 217;
    REQUEST_KEY: 249, 218;
    KEYCTL: 250, 219;
    FSETXATTR: 190, 7;
    MKNODAT: 259, 33;
    UNSHARE: 272, 97;
    PERF_EVENT_OPEN: 298, 241;
    PRLIMIT64: 302, 261;
    OPEN_BY_HANDLE_AT: 304, 265;
    SETNS: 308, 268;
    FINIT_MODULE: 313, 273;
    KEXEC_FILE_LOAD: 320, 294;
    BPF: 321, 280;
    USERFAULTFD: 323, 282;
    IO_URING_SETUP: 425, 425;
    OPEN_TREE: 428, 428;
    FSOPEN: 430, 430;
    CLONE3: 435, 435;
    MOUNT_SETATTR: 442, 442;
}

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const ENOSYS: i32 = 38;

/// The signal a parent gets when its child ends.
const SIGCHLD: u64 = 17;

/// Whether the kernel said no without looking further.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EPERM | EACCES | ENOSYS))
}

/// What a system call is given.
pub(crate) enum Word<'a> {
    Number(u64),
    Text(&'a CStr),
    /// What the kernel may read and write, no further than its end: that is the caller's to see to.
    Bytes(&'a mut [u8]),
}

impl Word<'static> {
    /// A number below zero, as a register holds it.
    pub(crate) fn signed(number: i64) -> Self {
        Self::Number(number.cast_unsigned())
    }

    /// An open file, which the caller keeps open.
    pub(crate) fn file(file: &impl AsRawFd) -> Self {
        Self::signed(file.as_raw_fd().into())
    }
}

/// Asks the kernel.
pub(crate) fn call<const N: usize>(number: c_long, words: [Word<'_>; N]) -> io::Result<u64> {
    let mut registers = [0_u64; 6];
    for (register, word) in registers.iter_mut().zip(words) {
        *register = match word {
            Word::Number(number) => number,
            Word::Text(text) => text.as_ptr().expose_provenance() as u64,
            Word::Bytes(bytes) => bytes.as_mut_ptr().expose_provenance() as u64,
        };
    }
    let [first, second, third, fourth, fifth, sixth] = registers;
    // SAFETY: what the words borrow lives until the call returns; the kernel checks everything else.
    let answer = unsafe { syscall(number, first, second, third, fourth, fifth, sixth) };
    u64::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// For calls that give a descriptor, which is closed when it is dropped.
pub(crate) fn open<const N: usize>(number: c_long, words: [Word<'_>; N]) -> io::Result<OwnedFd> {
    let descriptor = call(number, words)?;
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, for this caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Opens a socket.
pub(crate) fn socket(family: u64, kind: u64, protocol: u64) -> io::Result<OwnedFd> {
    open(SOCKET, [Word::Number(family), Word::Number(kind), Word::Number(protocol)])
}

/// Makes a child in new namespaces, which ends at once.
pub(crate) fn clone_into(namespaces: u64) -> io::Result<()> {
    child(call(CLONE, [Word::Number(namespaces | SIGCHLD)]))
}

/// The same by the newer call.
pub(crate) fn clone3_into(namespaces: u64) -> io::Result<()> {
    let mut arguments = [0; 64];
    arguments[..8].copy_from_slice(&namespaces.to_ne_bytes());
    arguments[32..40].copy_from_slice(&SIGCHLD.to_ne_bytes());
    let size = arguments.len() as u64;
    child(call(CLONE3, [Word::Bytes(&mut arguments), Word::Number(size)]))
}

fn child(made: io::Result<u64>) -> io::Result<()> {
    match made? {
        // The child: with a copy of everything and no thread but this one.
        0 => {
            call(EXIT_GROUP, [Word::Number(0)])?;
            Ok(())
        }
        child => call(WAIT4, [Word::Number(child)]).map(drop),
    }
}
