//! A connection on which a test writes what it wants and stops where it wants.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rustix::{
    net::{self, AddressFamily, SocketType},
    process::{Resource, getrlimit, setrlimit},
};

use crate::Http;

/// An HTTP/1.1 connection of one user, byte by byte. Dropped, it is closed.
#[derive(Debug)]
pub struct Raw<S = TcpStream> {
    stream: S,
    host: String,
    authorization: String,
}

impl Raw {
    pub(crate) fn open(host: &str, authorization: Option<&str>) -> Self {
        let stream = TcpStream::connect(host).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_mins(2))).expect("a timeout");
        Self::over(stream, host, authorization)
    }
}

impl<S: Read + Write> Raw<S> {
    pub(crate) fn over(stream: S, host: &str, authorization: Option<&str>) -> Self {
        let authorization = authorization.map(|value| format!("authorization: {value}\r\n"));
        Self { stream, host: host.to_owned(), authorization: authorization.unwrap_or_default() }
    }

    /// What the bytes travel on.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The same, to write and read on.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Sends the head of a request whose body will have `length` bytes.
    pub fn head(&mut self, method: &str, path: &str, length: usize) {
        self.head_with(method, path, &format!("content-length: {length}\r\n"));
    }

    /// Sends the head of a request with these further header lines, each with its end.
    pub fn head_with(&mut self, method: &str, path: &str, lines: &str) {
        let Self { host, authorization, .. } = self;
        let kind =
            if lines.contains("content-type:") { "" } else { "content-type: application/octet-stream\r\n" };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{authorization}{kind}{lines}\r\n");
        self.send(head.as_bytes());
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Receives so many bytes.
    pub fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("a body");
        bytes
    }

    /// The status and the headers of the next answer, as text.
    pub fn answer_head(&mut self) -> (u16, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("an answer");
            head.extend(byte);
        }
        let text = String::from_utf8(head).expect("UTF-8").to_lowercase();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, text)
    }

    /// The status and the rest of the next answer, as text.
    pub fn answer(&mut self) -> (u16, String) {
        let (status, mut text) = self.answer_head();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let body = self.receive(length.map_or(0, |length| length.parse().expect("a length")));
        text.push_str(&String::from_utf8_lossy(&body));
        (status, text)
    }
}

impl Http {
    /// A connection to write on by hand.
    pub fn raw(&self) -> Raw {
        Raw::open(self.host(), self.authorization())
    }

    /// The same, from this address of the machine's own: each in 127.0.0.0/8 is one.
    pub fn raw_from(&self, from: [u8; 4]) -> Raw {
        let stream = connect_from(from, self.host());
        stream.set_read_timeout(Some(Duration::from_mins(2))).expect("a timeout");
        Raw::over(stream, self.host(), self.authorization())
    }
}

/// Connects from an address of the machine's own.
pub fn connect_from(from: [u8; 4], to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().expect("an address");
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    net::bind(&socket, &SocketAddr::from((from, 0))).expect("an address of this machine");
    net::connect(&socket, &to).expect("a connection");
    socket.into()
}

/// Lets this process have as many connections as the kernel grants.
pub fn allow_many_connections() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the limit of open files can be raised");
}
