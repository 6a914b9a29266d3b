//! What a server asks the kernel for, as `strace` tells it.

use std::path::{Path, PathBuf};

/// A system call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// Between the parentheses.
    pub(crate) arguments: String,
    /// Behind the equals sign.
    pub(crate) result: String,
    /// The line of the trace that tells of its beginning. All that ended in lines before has ended.
    pub(crate) began: usize,
    /// The line that tells of its end.
    pub(crate) ended: usize,
}

/// The calls that change files, make them durable, or answer a client.
const CALLS: &str = "openat,creat,write,pwrite64,writev,pwritev,sendto,sendmsg,rename,renameat,renameat2,unlink,unlinkat,\
    link,linkat,mkdir,mkdirat,rmdir,ftruncate,truncate,fallocate,copy_file_range,sendfile,fsync,fdatasync,syncfs,sync,\
    sync_file_range";

/// What traces a server into a file, for `Site::behind`: every byte of every call.
pub(crate) fn tracer(file: &Path) -> Vec<String> {
    let file = file.to_str().expect("UTF-8");
    let trace = format!("trace={CALLS}");
    // -D: the process that was started becomes the server. -y: descriptors with their paths.
    ["strace", "-D", "-f", "-y", "-qq", "-s", "4000000", "-e", "signal=none", "-e", &trace, "-o", file]
        .map(str::to_owned)
        .into()
}

/// Reads what was traced, in the order in which the calls ended.
pub(crate) fn read(text: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut open: Vec<(&str, usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            open.push((thread, number, start.trim_end().to_owned()));
            continue;
        }
        let (began, whole) = match rest.strip_prefix("<... ") {
            None => (number, rest.to_owned()),
            Some(resumed) => {
                let Some(at) = open.iter().position(|(of, ..)| *of == thread) else { continue };
                let (_, began, start) = open.swap_remove(at);
                let (_, end) = resumed.split_once("resumed>").expect("the end of a call");
                (began, start + end)
            }
        };
        let Some((name, rest)) = whole.split_once('(') else { continue };
        let Some((arguments, result)) = rest.rsplit_once(") = ").or_else(|| {
            // Alignment: `)   = 0`.
            let at = rest.rfind(" = ")?;
            let arguments = rest.get(..at)?.trim_end().strip_suffix(')')?;
            Some((arguments, rest.get(at + 3..)?))
        }) else {
            continue;
        };
        calls.push(Call {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
            result: result.to_owned(),
            began,
            ended: number,
        });
    }
    calls
}

impl Call {
    /// Whether it did what it was asked for.
    pub(crate) fn succeeded(&self) -> bool {
        !self.result.starts_with('-') && !self.result.starts_with('?')
    }

    /// The file or folder of the descriptor that is its first argument.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        path_of(&self.arguments)
    }

    /// The file that it opened.
    pub(crate) fn opened(&self) -> Option<PathBuf> {
        path_of(&self.result)
    }

    /// Its arguments that are text or bytes.
    pub(crate) fn strings(&self) -> Vec<Vec<u8>> {
        let mut strings = Vec::new();
        let mut rest = self.arguments.as_bytes();
        while let Some(start) = rest.iter().position(|byte| *byte == b'"') {
            let (string, length) = unescape(&rest[start + 1..]);
            strings.push(string);
            rest = &rest[start + 1 + length..];
        }
        strings
    }

    /// Its arguments that are paths.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.strings()
            .into_iter()
            .map(|path| PathBuf::from(String::from_utf8(path).expect("UTF-8")))
            .collect()
    }

    /// The last argument, a number.
    pub(crate) fn last_number(&self) -> usize {
        let last = self.arguments.rsplit(", ").next().expect("an argument");
        last.parse().unwrap_or_else(|_| panic!("{last} in {self:?}"))
    }

    /// How many bytes it took.
    pub(crate) fn taken(&self) -> usize {
        self.result.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Whether it sends an answer with this status.
    pub(crate) fn answers(&self, status: u16) -> bool {
        matches!(self.name.as_str(), "write" | "writev" | "sendto" | "sendmsg")
            && self
                .strings()
                .first()
                .is_some_and(|text| text.starts_with(format!("HTTP/1.1 {status}").as_bytes()))
    }

    /// Whether it makes this file or folder durable.
    pub(crate) fn syncs(&self, path: &Path) -> bool {
        match self.name.as_str() {
            "fsync" | "fdatasync" => self.file().as_deref() == Some(path),
            "syncfs" | "sync" => true,
            _ => false,
        }
    }

    /// Whether it writes to this file.
    pub(crate) fn writes(&self, path: &Path) -> bool {
        matches!(self.name.as_str(), "write" | "pwrite64" | "writev" | "pwritev")
            && self.file().as_deref() == Some(path)
    }
}

fn path_of(descriptor: &str) -> Option<PathBuf> {
    let (number, rest) = descriptor.split_once('<')?;
    number.parse::<u32>().ok()?;
    let (path, _) = rest.split_once('>')?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// A string of `strace` from behind its opening quote; the bytes, and how long it was with its closing one.
fn unescape(text: &[u8]) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut at = 0;
    loop {
        match text[at] {
            b'"' => return (bytes, at + 1),
            b'\\' => {
                let digits =
                    text[at + 1..].iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                if digits > 0 {
                    let number = text[at + 1..at + 1 + digits]
                        .iter()
                        .fold(0_u32, |number, digit| number * 8 + u32::from(digit - b'0'));
                    bytes.push(u8::try_from(number).expect("a byte"));
                    at += 1 + digits;
                    continue;
                }
                bytes.push(match text[at + 1] {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'v' => 0x0b,
                    b'f' => 0x0c,
                    other => other,
                });
                at += 2;
            }
            byte => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
}
