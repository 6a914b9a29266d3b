//! What one listener grants to whoever comes, before anybody has logged in.

use std::time::Duration;

/// The head of a request, in bytes: request line and header lines, or what HTTP/2 makes of them. The longest honest ones
/// carry a token of a few KiB and a location with its query.
pub(super) const HEAD: u32 = 32 * 1024;

/// How many connections there may be, and how long a peer may take over what it owes.
///
/// The times bound how long somebody can hold a place without using it; none of them bounds a transfer that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. Past it new ones wait in the kernel's queue.
    pub connections: usize,
    /// Of those, as many as one address (of IPv6: one network of 64 bits) may have. Further ones are closed at once, so
    /// that nobody takes all the places.
    pub connections_per_address: usize,
    /// Shaking hands over TLS: a few packets each way, on the slowest line.
    pub handshake: Duration,
    /// The head of a request, from the connection's start or the end of the answer before; so a kept connection may rest
    /// for as long too.
    pub header: Duration,
    /// A body that stands still: of a request nothing comes, of an answer nothing is taken.
    pub body: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 1024,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(30),
            body: Duration::from_mins(1),
        }
    }
}
