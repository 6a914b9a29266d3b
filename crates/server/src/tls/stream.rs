//! One connection over TLS: its handshake, and its bytes in large pieces.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use rustls::{ServerConnection, server::Acceptor};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{Certified, Offer, Tls};

/// How much is received at a time, in bytes. rustls asks for 4 KiB at a time, which would be a system call each.
const READ_AHEAD: usize = 128 * 1024;

/// How much is encrypted before it is sent, in bytes: 16 records, one system call.
const WRITE_AHEAD: usize = 256 * 1024;

/// The first byte of everybody who speaks TLS: a record of the handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What a connection turned out to be.
pub(crate) enum Opened {
    /// TLS, and the handshake is done.
    Encrypted(Encrypted),
    /// Something else, such as HTTP in clear; nothing of it is lost.
    Plain(BufReader<TcpStream>),
    /// A certificate authority that has seen what it wanted to see.
    Checked,
}

impl Tls {
    /// Shakes hands. An error is the peer's: it left, or wants what is not offered, which it has been told then.
    /// Cancelled, it closes the connection. It takes as long as the peer likes.
    pub(crate) async fn open(&self, socket: TcpStream) -> io::Result<Opened> {
        let mut socket = BufReader::with_capacity(READ_AHEAD, socket);
        match socket.fill_buf().await?.first() {
            None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(&HANDSHAKE_RECORD) => {
                let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
                let offer = self.config(&start.client_hello());
                match offer {
                    Offer::Ordinary(config) => {
                        let limit =
                            |session: &mut ServerConnection| session.set_buffer_limit(Some(WRITE_AHEAD));
                        let stream = start.into_stream_with(config, limit).await?;
                        Ok(Opened::Encrypted(Encrypted(Box::new(stream))))
                    }
                    Offer::Challenge(config) => {
                        start.into_stream(config).await?.shutdown().await?;
                        Ok(Opened::Checked)
                    }
                    Offer::Nothing(config) => {
                        self.say_once_that_there_is_none();
                        start.into_stream(config).await?;
                        Err(io::ErrorKind::NotFound.into())
                    }
                }
            }
            Some(_) => Ok(Opened::Plain(socket)),
        }
    }
}

/// What a peer speaks inside a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1: it asked for that, or for nothing.
    Http1,
    /// HTTP/2.
    Http2,
}

/// The inside of a TLS connection.
pub(crate) struct Encrypted(Box<TlsStream<BufReader<TcpStream>>>);

impl Encrypted {
    pub(crate) fn protocol(&self) -> Protocol {
        match self.0.get_ref().1.alpn_protocol() {
            Some(super::HTTP2) => Protocol::Http2,
            _ => Protocol::Http1,
        }
    }

    /// Whom the client's certificate names, if it has shown one.
    pub(crate) fn certified(&self) -> Option<Certified> {
        let (_, session) = self.0.get_ref();
        Certified::by(session.peer_certificates()?.first()?)
    }

    /// Whether the kernel need not be asked for what comes next.
    fn has_more(&self) -> bool {
        let (socket, _) = self.0.get_ref();
        !socket.buffer().is_empty()
    }
}

impl AsyncRead for Encrypted {
    /// The records that have come, as many as there is room for: one alone has 16 KiB at most, and every piece costs
    /// whoever takes it something.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            let filled = buffer.filled().len();
            match Pin::new(&mut self.0).poll_read(context, buffer) {
                // What ends the connection is said again when it is asked for more.
                Poll::Pending | Poll::Ready(Err(_)) if filled > before => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if buffer.filled().len() > filled => {}
                other => return other,
            }
            if buffer.remaining() == 0 || !self.has_more() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
