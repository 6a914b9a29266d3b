//! A connection over TLS 1.3.
//!
//! It uses the interface of rustls in which the caller owns the buffers: the one that owns them itself receives 4 KiB
//! at a time, and would be measured instead of the server.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::UnbufferedClientConnection,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, pem::PemObject as _},
    unbuffered::{ConnectionState, UnbufferedStatus},
    version::TLS13,
};

use crate::failure::Failure;

/// How much is received at a time, and encrypted at a time, in bytes.
const BUFFER: usize = 256 * 1024;
/// Room for what encryption adds to [`BUFFER`] bytes: 22 for each record of 16 KiB, and to spare.
const OVERHEAD: usize = 4096;

/// A client that trusts one certificate and offers what Docker's client prefers: AES-128-GCM, HTTP/1.1.
pub(crate) fn client_config(certificate: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let failure = |error: &dyn std::fmt::Display| Failure::Tls(error.to_string());
    let certificate = CertificateDer::from_pem_file(certificate).map_err(|error| failure(&error))?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(|error| failure(&error))?;
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| failure(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A session, its socket and the buffers of both directions.
pub(super) struct Tls {
    session: UnbufferedClientConnection,
    socket: TcpStream,
    /// What came and is not yet decrypted.
    incoming: Vec<u8>,
    waiting: Range<usize>,
    /// What is decrypted and not yet taken.
    decrypted: Vec<u8>,
    taken: usize,
    outgoing: Vec<u8>,
    file_buffer: Vec<u8>,
}

/// What a session wants next.
enum Wants {
    /// More bytes of the peer; it may be sent to.
    Bytes,
    /// More bytes of the peer; the handshake is not over.
    Handshake,
    /// Nothing: there is decrypted data to take.
    Taking,
    /// Nothing: the peer has ended the session.
    End,
}

impl Tls {
    /// Shakes hands with a server on the loopback address.
    pub(super) fn new(socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])));
        let session = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut this = Self {
            session,
            socket,
            incoming: vec![0; BUFFER],
            waiting: 0..0,
            decrypted: Vec::new(),
            taken: 0,
            outgoing: vec![0; BUFFER + OVERHEAD],
            file_buffer: vec![0; BUFFER],
        };
        while matches!(this.advance()?, Wants::Handshake) {
            this.receive()?;
        }
        if this.session.alpn_protocol() != Some(b"http/1.1") {
            return Err(io::Error::other("the server chose no protocol, or another than http/1.1"));
        }
        Ok(this)
    }

    pub(super) fn ready(&self) -> &[u8] {
        self.decrypted.get(self.taken..).unwrap_or_default()
    }

    pub(super) fn take(&mut self, count: usize) {
        self.taken += count;
    }

    pub(super) fn give_back(&mut self, count: usize) {
        self.taken = self.taken.saturating_sub(count);
    }

    pub(super) fn fill(&mut self) -> io::Result<()> {
        self.decrypted.clear();
        self.taken = 0;
        loop {
            match self.advance()? {
                Wants::Bytes | Wants::Handshake => self.receive()?,
                Wants::Taking | Wants::End => return Ok(()),
            }
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(BUFFER) {
            self.send_piece(piece)?;
        }
        Ok(())
    }

    pub(super) fn send_file(&mut self, file: &File, range: Range<u64>) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.file_buffer);
        let mut at = range.start;
        while at < range.end {
            let count = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(BUFFER);
            let piece = buffer.get_mut(..count).unwrap_or_default();
            file.read_exact_at(piece, at)?;
            self.send_piece(piece)?;
            at += count as u64;
        }
        self.file_buffer = buffer;
        Ok(())
    }

    fn send_piece(&mut self, piece: &[u8]) -> io::Result<()> {
        // Nothing is decrypted here: requests are sent when the answer before is taken.
        let UnbufferedStatus { discard, state } = self.session.process_tls_records(&mut []);
        debug_assert_eq!(discard, 0, "there was nothing to discard");
        let ConnectionState::WriteTraffic(mut traffic) = state.map_err(io::Error::other)? else {
            return Err(io::Error::other("the session does not take data now"));
        };
        let length = traffic.encrypt(piece, &mut self.outgoing).map_err(io::Error::other)?;
        self.socket.write_all(self.outgoing.get(..length).unwrap_or_default())
    }

    /// Works on what has come until the session wants something.
    fn advance(&mut self) -> io::Result<Wants> {
        let mut encoded = 0;
        loop {
            let waiting = self.incoming.get_mut(self.waiting.clone()).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.session.process_tls_records(waiting);
            let wants = match state.map_err(io::Error::other)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    if let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        discard += record.discard;
                        self.decrypted.extend_from_slice(record.payload);
                    }
                    Some(Wants::Taking)
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let room = self.outgoing.get_mut(encoded..).unwrap_or_default();
                    encoded += data.encode(room).map_err(io::Error::other)?;
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    self.socket.write_all(self.outgoing.get(..encoded).unwrap_or_default())?;
                    encoded = 0;
                    data.done();
                    None
                }
                ConnectionState::WriteTraffic(_) => Some(Wants::Bytes),
                ConnectionState::BlockedHandshake => Some(Wants::Handshake),
                ConnectionState::PeerClosed | ConnectionState::Closed => Some(Wants::End),
                _ => return Err(io::Error::other("the session is in a state this client does not know")),
            };
            self.waiting.start += discard;
            if let Some(wants) = wants {
                return Ok(wants);
            }
        }
    }

    /// Receives behind what waits, which is less than one record.
    fn receive(&mut self) -> io::Result<()> {
        self.incoming.copy_within(self.waiting.clone(), 0);
        self.waiting = 0..self.waiting.len();
        let room = self.incoming.get_mut(self.waiting.end..).unwrap_or_default();
        match self.socket.read(room)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.waiting.end += count;
                Ok(())
            }
        }
    }
}
