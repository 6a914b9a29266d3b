//! A connection over HTTP/2 on which a test writes the frames it wants (RFC 9113).

use std::io::{self, Read as _, Write as _};

use crate::{Authority, Http, Secure};

/// Bytes of a request's or an answer's body.
pub const DATA: u8 = 0;
/// The head of a request or an answer.
pub const HEADERS: u8 = 1;
/// The end of a stream before its time.
pub const RST_STREAM: u8 = 3;
/// What an end of the connection wants of the other.
pub const SETTINGS: u8 = 4;
/// A question that is answered with the same.
pub const PING: u8 = 6;
/// No further streams.
pub const GOAWAY: u8 = 7;
/// Room for more bytes.
pub const WINDOW_UPDATE: u8 = 8;
/// More of a head.
pub const CONTINUATION: u8 = 9;

/// Of [`SETTINGS`] and [`PING`]: it answers one.
pub const ACK: u8 = 1;
/// Of [`DATA`] and [`HEADERS`]: nothing follows.
pub const END_STREAM: u8 = 1;
/// Of [`HEADERS`] and [`CONTINUATION`]: the head is whole.
pub const END_HEADERS: u8 = 4;

/// How many bytes of each stream may come before more are asked for.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A connection of one user, frame by frame. Dropped, it is closed.
#[derive(Debug)]
pub struct Http2 {
    connection: Secure,
    authority: String,
    authorization: Option<String>,
    next: u32,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Such as [`DATA`].
    pub kind: u8,
    /// Such as [`END_STREAM`].
    pub flags: u8,
    /// 0 for the connection itself.
    pub stream: u32,
    /// What it brings.
    pub payload: Vec<u8>,
}

impl Http2 {
    /// Shakes hands with a site as this user, and says what is wanted of it.
    pub fn open(authority: &Authority, http: &Http, settings: &[(u16, u32)]) -> Self {
        let versions = [&rustls::version::TLS13];
        let connection = authority.connect(http, &versions, &["h2"]).expect("a handshake");
        let mut this = Self {
            connection,
            authority: http.host().to_owned(),
            authorization: http.authorization().map(str::to_owned),
            next: 1,
        };
        this.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the server reads");
        let setting = |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let settings: Vec<u8> = settings.iter().flat_map(setting).collect();
        this.frame(SETTINGS, 0, 0, &settings).expect("the server reads");
        this
    }

    /// Sends bytes. An error is the end of the connection.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.connection.stream_mut();
        stream.write_all(bytes)?;
        stream.flush()
    }

    /// Sends a frame.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.send(&frame(kind, flags, stream, payload))
    }

    /// Begins a request; its stream. Without [`END_STREAM`] in `flags` its body follows.
    pub fn request(&mut self, method: &str, path: &str, flags: u8) -> io::Result<u32> {
        let stream = self.next;
        self.next += 2;
        let head = self.head(method, path, &[]);
        self.frame(HEADERS, flags | END_HEADERS, stream, &head)?;
        Ok(stream)
    }

    /// The head of a request with these further fields.
    pub fn head(&self, method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let mut head = Vec::new();
        let first =
            [(":method", method), (":scheme", "https"), (":authority", &self.authority), (":path", path)];
        let authorization = self.authorization.iter().map(|value| ("authorization", value.as_str()));
        for (name, value) in first.into_iter().chain(authorization).chain(more.iter().copied()) {
            head.extend(field(name, value));
        }
        head
    }

    /// What comes next; what wants to be acknowledged is. An error is the end of the connection.
    pub fn next_frame(&mut self) -> io::Result<Frame> {
        let frame = self.receive()?;
        if frame.flags & ACK == 0 {
            match frame.kind {
                PING => self.frame(PING, ACK, 0, &frame.payload)?,
                SETTINGS => self.frame(SETTINGS, ACK, 0, &[])?,
                _ => {}
            }
        }
        Ok(frame)
    }

    fn receive(&mut self) -> io::Result<Frame> {
        let stream = self.connection.stream_mut();
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte));
        let mut payload = vec![0; number(&head[..3]) as usize];
        stream.read_exact(&mut payload)?;
        Ok(Frame { kind: head[3], flags: head[4], stream: number(&head[5..]), payload })
    }

    /// The next frame of this kind; others are passed over. An error is the end of the connection.
    pub fn next_of(&mut self, kind: u8) -> io::Result<Frame> {
        loop {
            let frame = self.next_frame()?;
            if frame.kind == kind {
                return Ok(frame);
            }
        }
    }

    /// Reads until the server has ended the connection; whether it said so before ([`GOAWAY`]). Fails if it does not.
    pub fn end(&mut self) -> Option<Frame> {
        let mut said = None;
        loop {
            match self.next_frame() {
                Ok(frame) if frame.kind == GOAWAY => said = Some(frame),
                Ok(_) => {}
                Err(error) => {
                    let waited = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind());
                    assert!(!waited, "the server has not ended the connection");
                    return said;
                }
            }
        }
    }
}

/// A frame as it is sent.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that neither side remembers (RFC 7541, section 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &text(name), &text(value)].concat()
}

/// A length in a prefix of 7 bits (RFC 7541, section 5.1), and the text as it is.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    match u8::try_from(text.len()) {
        Ok(length) if length < 127 => bytes.push(length),
        _ => {
            bytes.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                bytes.push(u8::try_from(rest % 128).expect("7 bits") | 128);
                rest /= 128;
            }
            bytes.push(u8::try_from(rest).expect("7 bits"));
        }
    }
    bytes.extend(text.as_bytes());
    bytes
}
