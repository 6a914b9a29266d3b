//! The places of a listener's connections, and how many of them one address has.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;

/// How many connections there are, and whose.
#[derive(Debug)]
pub(super) struct Places {
    room: Arc<Semaphore>,
    share: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    by: HashMap<IpAddr, usize>,
    /// When the log was last told that somebody has their whole share.
    told: Option<Instant>,
}

/// The place of one connection. Dropped, it is free again.
#[derive(Debug)]
pub(super) struct Place {
    counted: Option<(Arc<Places>, IpAddr)>,
    _room: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            room: Arc::new(Semaphore::new(limits.connections)),
            share: limits.connections_per_address,
            taken: Mutex::default(),
        })
    }

    /// Waits until there is room for one more. Cancelled, it has taken none.
    pub(super) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).acquire_owned().await.ok()
    }

    /// A place for somebody who is counted; `None` if their address has its whole share.
    pub(super) fn take(self: &Arc<Self>, room: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        /// Once is a notice, a thousand times is an attack on the log.
        const QUIET: Duration = Duration::from_mins(1);
        let network = network(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.by.entry(network).or_default();
        if *count >= self.share {
            if taken.told.is_none_or(|told| told.elapsed() > QUIET) {
                taken.told = Some(Instant::now());
                tracing::warn!(from = %address, "further connections are closed: this address has its whole share");
            }
            return None;
        }
        *count += 1;
        Some(Place { counted: Some((Arc::clone(self), network)), _room: room })
    }

    /// A place for somebody who speaks for many, as a proxy does.
    pub(super) fn take_for_many(room: OwnedSemaphorePermit) -> Place {
        Place { counted: None, _room: room }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((places, network)) = self.counted.take() else { return };
        let mut taken = places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.by.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                taken.by.remove(&network);
            }
        }
    }
}

/// Who has one address of a network of 64 bits has all of them (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let high = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(high).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections: usize, connections_per_address: usize) -> Arc<Places> {
        Places::new(&Limits { connections, connections_per_address, ..Limits::default() })
    }

    async fn take(places: &Arc<Places>, address: &str) -> Option<Place> {
        let room = places.room().await.expect("room");
        places.take(room, address.parse().expect("an address"))
    }

    #[tokio::test]
    async fn one_address_has_its_share_and_no_more() {
        let places = places(10, 2);
        let first = take(&places, "192.0.2.1").await.expect("a place");
        let _second = take(&places, "192.0.2.1").await.expect("a place");
        assert!(take(&places, "192.0.2.1").await.is_none());
        assert!(take(&places, "192.0.2.2").await.is_some());
        assert_eq!(places.room.available_permits(), 8, "who was refused takes no room");
        drop(first);
        assert!(take(&places, "192.0.2.1").await.is_some(), "a place is free again");
    }

    #[tokio::test]
    async fn a_network_of_ipv6_is_one_address() {
        let places = places(10, 1);
        let _one = take(&places, "2001:db8::1").await.expect("a place");
        assert!(take(&places, "2001:db8::ffff:1").await.is_none());
        assert!(take(&places, "2001:db8:0:1::1").await.is_some());
    }

    #[tokio::test]
    async fn nothing_is_remembered_of_who_has_gone() {
        let places = places(10, 1);
        drop(take(&places, "192.0.2.1").await.expect("a place"));
        assert!(places.taken.lock().expect("no panic").by.is_empty());
        let many = [(); 3].map(|()| places.room());
        for room in many {
            let _ = Places::take_for_many(room.await.expect("room"));
        }
        assert_eq!(places.room.available_permits(), 10);
    }
}
