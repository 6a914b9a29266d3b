//! A connection in clear.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    ops::Range,
};

/// How much is received at a time, in bytes: as much as the kernel has, mostly, in one call.
const BUFFER: usize = 1024 * 1024;

/// A socket and what came from it.
#[derive(Debug)]
pub(super) struct Plain {
    socket: TcpStream,
    buffer: Vec<u8>,
    ready: Range<usize>,
}

impl Plain {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, buffer: vec![0; BUFFER], ready: 0..0 }
    }

    /// What has come and was not yet taken.
    pub(super) fn ready(&self) -> &[u8] {
        self.buffer.get(self.ready.clone()).unwrap_or_default()
    }

    pub(super) fn take(&mut self, count: usize) {
        self.ready.start += count;
    }

    pub(super) fn give_back(&mut self, count: usize) {
        self.ready.start = self.ready.start.saturating_sub(count);
    }

    /// Waits for more, once everything is taken; nothing is ready afterwards when the peer has closed.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        self.ready = 0..self.socket.read(&mut self.buffer)?;
        Ok(())
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sends a part of a file from the page cache, without reading it into this process.
    pub(super) fn send_file(&mut self, file: &File, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let count = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            if rustix::fs::sendfile(&self.socket, file, Some(&mut at), count)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}
