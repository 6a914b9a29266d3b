//! Several connections at once.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::Connection;
use crate::{failure::Failure, server::Target};

/// Does the work again and again on so many connections for a while; how often it was done per second.
///
/// `work` gets a connection, the connection's number, and how often that has worked before.
pub(crate) fn during(
    target: &Target,
    connections: usize,
    window: Duration,
    work: impl Fn(&mut Connection, usize, u64) -> Result<(), Failure> + Sync,
) -> Result<f64, Failure> {
    let opened = open(target, connections)?;
    let start = Barrier::new(connections);
    let one = |number: usize, mut connection: Connection| -> Result<(u64, Duration), Failure> {
        start.wait();
        let since = Instant::now();
        let mut turns = 0;
        while since.elapsed() < window {
            work(&mut connection, number, turns)?;
            turns += 1;
        }
        Ok((turns, since.elapsed()))
    };
    let done: Result<Vec<_>, Failure> = thread::scope(|scope| {
        let threads: Vec<_> = opened
            .into_iter()
            .enumerate()
            .map(|(number, connection)| scope.spawn(move || one(number, connection)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a client does not panic")).collect()
    });
    // Each connection's own rate, so that one which ends late does not thin out the others'.
    #[expect(clippy::cast_precision_loss, reason = "far fewer turns than 2^52")]
    let rate = |(turns, time): &(u64, Duration)| *turns as f64 / time.as_secs_f64();
    Ok(done?.iter().map(rate).sum())
}

/// Does the work once for each number below `count`, on so many connections.
pub(crate) fn each(
    target: &Target,
    connections: usize,
    count: u64,
    work: impl Fn(&mut Connection, u64) -> Result<(), Failure> + Sync,
) -> Result<(), Failure> {
    let opened = open(target, connections)?;
    let next = AtomicU64::new(0);
    let one = |mut connection: Connection| -> Result<(), Failure> {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                number if number < count => work(&mut connection, number)?,
                _ => return Ok(()),
            }
        }
    };
    thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> =
            opened.into_iter().map(|connection| scope.spawn(move || one(connection))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a client does not panic"))
    })
}

fn open(target: &Target, connections: usize) -> Result<Vec<Connection>, Failure> {
    (0..connections).map(|_| Connection::open(target)).collect()
}
