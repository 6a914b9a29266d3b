//! One connection of the load generator, and what is asked on it.

use std::{fmt::Write as _, io, net::TcpStream};

use sha2::{Digest as _, Sha256};

use super::{PATIENCE, Payload, payload, plain::Plain, tls::Tls};
use crate::{failure::Failure, server::Target};

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// A head is looked for in so many bytes at a time: what follows it is the body's and is not to be copied.
const HEAD_STEP: usize = 1024;
/// The longest body that is kept, in bytes; what is longer is only counted or hashed.
const MAX_BODY: u64 = 64 * 1024 * 1024;

/// A connection that is used for one request after the other.
pub(crate) struct Connection {
    stream: Stream,
    target: Target,
}

enum Stream {
    Plain(Plain),
    Tls(Box<Tls>),
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) location: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// What of an answer's head matters.
struct Head {
    status: u16,
    length: u64,
    location: Option<String>,
}

/// What a request brings.
#[derive(Clone, Copy)]
enum Body<'a> {
    Bytes(&'a [u8]),
    Payload(&'a Payload),
}

impl Connection {
    /// Connects, and shakes hands if the target speaks TLS.
    pub(crate) fn open(target: &Target) -> Result<Self, Failure> {
        let failure = || Failure::io(format!("no connection to {} at {}", target.peer, target.address));
        let socket = TcpStream::connect(target.address).map_err(failure())?;
        socket.set_nodelay(true).map_err(failure())?;
        // Some machines pace what is sent (BBR), which on a loopback measures the pacing. One that lacks this one keeps its
        // own.
        let _ = rustix::net::sockopt::set_tcp_congestion(&socket, "cubic");
        socket.set_read_timeout(Some(PATIENCE)).map_err(failure())?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(failure())?;
        let stream = match &target.tls {
            None => Stream::Plain(Plain::new(socket)),
            Some(config) => Stream::Tls(Box::new(Tls::new(socket, config.clone()).map_err(failure())?)),
        };
        Ok(Self { stream, target: target.clone() })
    }

    /// Asks, and keeps the answer, which must have this status.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        expected: u16,
    ) -> Result<Answer, Failure> {
        self.send(method, path, headers, Body::Bytes(body))?;
        let request = format!("{method} {path} at {}", self.target.peer);
        let mut head = self.head(&request)?;
        if method == "HEAD" {
            // The length is of what GET would bring (RFC 9110, section 9.3.2).
            head.length = 0;
        }
        let body = self.keep(&request, head.length)?;
        if head.status != expected {
            let body = String::from_utf8_lossy(&body).into_owned();
            return Err(Failure::Status { request, status: head.status, expected, body });
        }
        Ok(Answer { location: head.location, body })
    }

    /// Gets something of `length` bytes and throws it away as it comes.
    pub(crate) fn pull(&mut self, path: &str, length: u64) -> Result<(), Failure> {
        self.pull_into(path, length, |_| ())
    }

    /// Gets something of `length` bytes whose digest must be this.
    pub(crate) fn pull_verified(&mut self, path: &str, length: u64, digest: &str) -> Result<(), Failure> {
        let mut hasher = Sha256::new();
        self.pull_into(path, length, |piece| hasher.update(piece))?;
        let found = payload::name(hasher);
        if found == digest {
            return Ok(());
        }
        Err(Failure::Wrong(format!(
            "GET {path} at {}: the bytes are {found}, not {digest}",
            self.target.peer
        )))
    }

    fn pull_into(&mut self, path: &str, length: u64, each: impl FnMut(&[u8])) -> Result<(), Failure> {
        self.send("GET", path, &[], Body::Bytes(&[]))?;
        let request = format!("GET {path} at {}", self.target.peer);
        let head = self.head(&request)?;
        if head.status != 200 {
            let body = String::from_utf8_lossy(&self.keep(&request, head.length)?).into_owned();
            return Err(Failure::Status { request, status: head.status, expected: 200, body });
        }
        if head.length != length {
            let problem = format!("{} bytes instead of {length}", head.length);
            return Err(Failure::Answer { request, problem });
        }
        self.pass(&request, length, each)
    }

    /// Pushes a blob as Docker's client does: POST, one streamed PATCH with all of it, PUT with the digest.
    pub(crate) fn push(&mut self, repository: &str, payload: &Payload) -> Result<(), Failure> {
        let begun = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], &[], 202)?;
        let patched = self.upload("PATCH", &self.location(begun)?, payload, 202)?;
        let location = self.location(patched)?;
        let joint = if location.contains('?') { '&' } else { '?' };
        self.ask("PUT", &format!("{location}{joint}digest={}", payload.digest), &[], &[], 201)?;
        Ok(())
    }

    /// Pushes a small blob with POST and PUT.
    pub(crate) fn push_small(&mut self, repository: &str, bytes: &[u8], digest: &str) -> Result<(), Failure> {
        let begun = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], &[], 202)?;
        let location = self.location(begun)?;
        let joint = if location.contains('?') { '&' } else { '?' };
        let headers = [("content-type", "application/octet-stream")];
        self.ask("PUT", &format!("{location}{joint}digest={digest}"), &headers, bytes, 201)?;
        Ok(())
    }

    /// Sends a payload as the body of a request.
    pub(crate) fn upload(
        &mut self,
        method: &str,
        path: &str,
        payload: &Payload,
        expected: u16,
    ) -> Result<Answer, Failure> {
        let headers = [("content-type", "application/octet-stream")];
        self.send(method, path, &headers, Body::Payload(payload))?;
        let request = format!("{method} {path} at {}", self.target.peer);
        let head = self.head(&request)?;
        let body = self.keep(&request, head.length)?;
        if head.status != expected {
            let body = String::from_utf8_lossy(&body).into_owned();
            return Err(Failure::Status { request, status: head.status, expected, body });
        }
        Ok(Answer { location: head.location, body })
    }

    /// The path of a `Location`, which may be absolute (RFC 9110, section 10.2.2).
    fn location(&self, answer: Answer) -> Result<String, Failure> {
        let location = answer.location.ok_or_else(|| {
            Failure::Wrong(format!("{} answered the start of an upload without a location", self.target.peer))
        })?;
        let path = match location.split_once("://") {
            Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/").to_owned(),
            None => location,
        };
        Ok(path)
    }

    fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body<'_>,
    ) -> Result<(), Failure> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.target.address);
        let mut header = |name: &str, value: &str| {
            // Writing to a `String` cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        };
        if let Some(authorization) = &self.target.authorization {
            header("authorization", authorization);
        }
        for (name, value) in headers {
            header(name, value);
        }
        let length = match body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Payload(payload) => payload.size,
        };
        if method != "GET" && method != "HEAD" {
            header("content-length", &length.to_string());
        }
        head.push_str("\r\n");
        let mut start = head.into_bytes();
        let sent = match body {
            Body::Bytes(bytes) => {
                start.extend_from_slice(bytes);
                self.stream.send(&start)
            }
            Body::Payload(payload) => {
                let file = payload.open()?;
                start.extend_from_slice(&payload.front);
                let from = payload.front.len() as u64;
                self.stream.send(&start).and_then(|()| self.stream.send_file(&file, from..payload.size))
            }
        };
        sent.map_err(Failure::io(format!("{method} {path} could not be sent to {}", self.target.peer)))
    }

    fn head(&mut self, request: &str) -> Result<Head, Failure> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if bytes.len() > MAX_HEAD {
                let problem = "its head does not end".to_owned();
                return Err(Failure::Answer { request: request.to_owned(), problem });
            }
            let more = self.more(request)?;
            let seen = more.len().min(HEAD_STEP);
            bytes.extend_from_slice(more.get(..seen).unwrap_or_default());
            self.stream.take(seen);
        };
        // What was taken beyond the head is the body's.
        self.stream.give_back(bytes.len() - end);
        bytes.truncate(end);
        parse(&bytes).map_err(|problem| Failure::Answer { request: request.to_owned(), problem })
    }

    fn keep(&mut self, request: &str, length: u64) -> Result<Vec<u8>, Failure> {
        if length > MAX_BODY {
            let problem = format!("a body of {length} bytes");
            return Err(Failure::Answer { request: request.to_owned(), problem });
        }
        let mut body = Vec::new();
        self.pass(request, length, |piece| body.extend_from_slice(piece))?;
        Ok(body)
    }

    fn pass(&mut self, request: &str, length: u64, mut each: impl FnMut(&[u8])) -> Result<(), Failure> {
        let mut left = length;
        while left > 0 {
            let ready = self.more(request)?;
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(ready.len());
            each(ready.get(..count).unwrap_or_default());
            self.stream.take(count);
            left -= count as u64;
        }
        Ok(())
    }

    /// At least one byte that was not taken yet.
    fn more(&mut self, request: &str) -> Result<&[u8], Failure> {
        let failure = || Failure::io(format!("{request}: the answer broke off"));
        if self.stream.ready().is_empty() {
            self.stream.fill().map_err(failure())?;
        }
        match self.stream.ready() {
            [] => Err(failure()(io::ErrorKind::UnexpectedEof.into())),
            ready => Ok(ready),
        }
    }
}

impl Stream {
    fn ready(&self) -> &[u8] {
        match self {
            Self::Plain(plain) => plain.ready(),
            Self::Tls(tls) => tls.ready(),
        }
    }

    fn take(&mut self, count: usize) {
        match self {
            Self::Plain(plain) => plain.take(count),
            Self::Tls(tls) => tls.take(count),
        }
    }

    /// Undoes the end of the last `take`.
    fn give_back(&mut self, count: usize) {
        match self {
            Self::Plain(plain) => plain.give_back(count),
            Self::Tls(tls) => tls.give_back(count),
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(plain) => plain.fill(),
            Self::Tls(tls) => tls.fill(),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(plain) => plain.send(bytes),
            Self::Tls(tls) => tls.send(bytes),
        }
    }

    fn send_file(&mut self, file: &std::fs::File, range: std::ops::Range<u64>) -> io::Result<()> {
        match self {
            Self::Plain(plain) => plain.send_file(file, range),
            Self::Tls(tls) => tls.send_file(file, range),
        }
    }
}

/// The status line and the headers that matter (RFC 9112, sections 4 and 6).
fn parse(head: &[u8]) -> Result<Head, String> {
    let text = std::str::from_utf8(head).map_err(|_| "its head is not ASCII".to_owned())?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status: u16 = status
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| digits.parse().ok())
        .ok_or("it does not begin with an HTTP/1.1 status")?;
    let mut length = None;
    let mut location = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse().map_err(|_| format!("the length `{value}`"))?);
        } else if name.eq_ignore_ascii_case("location") {
            location = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(format!("a body in the encoding `{value}`, which this client does not read"));
        }
    }
    // Without a length a body would go on to the end of the connection; 204 has none (RFC 9112, section 6.3).
    let length = match (length, status) {
        (Some(length), _) => length,
        (None, 204) => 0,
        (None, _) => return Err("it has no content-length".into()),
    };
    Ok(Head { status, length, location })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let head =
            parse(b"HTTP/1.1 202 Accepted\r\nLocation: /x\r\ncontent-LENGTH: 7\r\n\r\n").expect("a head");
        assert_eq!((head.status, head.length, head.location.as_deref()), (202, 7, Some("/x")));
        assert_eq!(parse(b"HTTP/1.1 204 No Content\r\n\r\n").expect("a head").length, 0);
        for bad in [
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
