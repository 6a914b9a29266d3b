//! A run's way to the services that its project allows: connections come in by Unix sockets from the relay in the run's
//! network namespace, and go out to the one address that belongs to each socket.
//!
//! All of it lives in the task of the run and ends with it.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use torno_oci::{Digest, RunId};
use torno_registry::{Registry, ServiceTraffic};

use crate::{EngineError, ExecutorError, Service};

/// Connections of one run at once: a pool for every processor of a large machine, and few enough that a run cannot take
/// all that a database has (PostgreSQL: 100).
pub(crate) const CONNECTIONS: u32 = 64;

/// A connection more every so often, once [`CONNECTIONS`] have been made in a burst: a run that opens and closes without
/// an end would otherwise take the ports of this machine, each of which rests for a minute.
const PACE: Duration = Duration::from_millis(50);

/// How long dialling may take. A service of the site answers in a fraction of that.
const DIAL: Duration = Duration::from_secs(10);

/// Names that are looked up at once for a run. The system's resolver cannot be told to stop and keeps a thread for as long as
/// it likes, of which the process has some hundreds: with name servers that do not answer, a run that dials again and again
/// would have them all.
const LOOKUPS: usize = 2;

/// How long a connection may pass nothing on: longer than a program computes between two queries, short enough that
/// what has been forgotten does not stay for a run of days.
const IDLE: Duration = Duration::from_hours(2);

/// How often what was exchanged is written down: so much is not counted when this process is killed.
const NOTED: Duration = Duration::from_secs(10);

/// What is read at once.
const PIECE: usize = 64 << 10;

/// After accepting failed, which is for want of files.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a relay may take from its start until it listens.
const READY: Duration = Duration::from_secs(30);

/// The socket at which the relay says that it listens.
pub(crate) const READY_SOCKET: &str = "ready";

/// The name of the socket that belongs to a service. The same after a restart, whatever else is allowed by then.
pub(crate) fn socket_name(service: &Service) -> String {
    Digest::sha256(service.to_string().as_bytes()).hex().chars().take(16).collect()
}

/// The sockets of one run, listened on.
#[derive(Debug)]
pub(crate) struct Exchange {
    run: RunId,
    folder: PathBuf,
    doors: Vec<Door>,
    pace: Pace,
    lookups: Arc<Semaphore>,
}

#[derive(Debug)]
struct Door {
    service: Arc<Service>,
    listener: UnixListener,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Exchange {
    /// Listens in a folder, going on with what was exchanged earlier. What an earlier process left there is in nobody's
    /// use any more.
    pub(crate) fn open(
        run: RunId,
        folder: &Path,
        services: &[Service],
        earlier: &[ServiceTraffic],
    ) -> io::Result<Self> {
        let mut doors = Vec::new();
        for service in services {
            let listener = listen(&folder.join(socket_name(service)))?;
            let shown = service.to_string();
            let earlier = earlier.iter().find(|traffic| traffic.service == shown);
            let counts = Arc::new(earlier.map(Counts::from).unwrap_or_default());
            doors.push(Door { service: Arc::new(service.clone()), listener, counts });
        }
        let lookups = Arc::new(Semaphore::new(LOOKUPS));
        Ok(Self { run, folder: folder.to_owned(), doors, pace: Pace::new(Instant::now()), lookups })
    }

    /// Does something that makes the relay start, and waits until it listens.
    pub(crate) async fn meet(
        &self,
        start: impl Future<Output = Result<(), EngineError>>,
    ) -> Result<(), ExecutorError> {
        let path = self.folder.join(READY_SOCKET);
        let ready = listen(&path).map_err(ExecutorError::io(&path))?;
        start.await?;
        let heard = timeout(READY, ready.accept()).await;
        heard
            .map_err(|_| ExecutorError::Run("its relay does not listen"))?
            .map_err(ExecutorError::io(&path))?;
        std::fs::remove_file(&path).map_err(ExecutorError::io(&path))
    }

    /// Passes connections on while something else is done, and ends them all with it.
    ///
    /// When this is cancelled, every connection ends, and what was exchanged since it was noted last is not counted.
    pub(crate) async fn beside<T>(mut self, registry: &Registry, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut connections = JoinSet::new();
        let mut noting = interval(NOTED);
        noting.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut noted = Vec::new();
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                accepted = accepted(&self.doors, self.pace.next) => match accepted {
                    Ok((door, stream)) => {
                        self.pace.made(Instant::now());
                        self.admit(door, stream, &mut connections);
                    }
                    Err(error) => {
                        tracing::error!(run = %self.run, %error, "a connection of a run could not be accepted");
                        sleep(AGAIN).await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                _ = noting.tick() => self.note(registry, &mut noted).await,
            }
        };
        connections.shutdown().await;
        self.note(registry, &mut noted).await;
        done
    }

    fn admit(&self, door: usize, stream: UnixStream, connections: &mut JoinSet<()>) {
        while connections.try_join_next().is_some() {}
        let Some(Door { service, counts, .. }) = self.doors.get(door) else { return };
        if connections.len() >= CONNECTIONS as usize {
            counts.refused.fetch_add(1, Relaxed);
            return;
        }
        let lookups = Arc::clone(&self.lookups);
        connections.spawn(pass(self.run, stream, Arc::clone(service), Arc::clone(counts), lookups));
    }

    async fn note(&self, registry: &Registry, noted: &mut Vec<ServiceTraffic>) {
        let now: Vec<_> = self.doors.iter().map(Door::traffic).collect();
        if *noted == now {
            return;
        }
        match registry.note_traffic(self.run, now.clone()).await {
            Ok(()) => *noted = now,
            Err(error) => {
                tracing::warn!(run = %self.run, %error, "what a run exchanged could not be noted; trying again");
            }
        }
    }
}

impl Door {
    fn traffic(&self) -> ServiceTraffic {
        let Counts { connections, refused, sent, received } = &*self.counts;
        ServiceTraffic {
            service: self.service.to_string(),
            connections: connections.load(Relaxed),
            refused: refused.load(Relaxed),
            sent: sent.load(Relaxed),
            received: received.load(Relaxed),
        }
    }
}

impl From<&ServiceTraffic> for Counts {
    fn from(traffic: &ServiceTraffic) -> Self {
        Self {
            connections: traffic.connections.into(),
            refused: traffic.refused.into(),
            sent: traffic.sent.into(),
            received: traffic.received.into(),
        }
    }
}

/// Connections that may be made now, and when the next one may.
#[derive(Debug)]
struct Pace {
    /// In the past by up to a burst.
    next: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { next: Self::earliest(now) }
    }

    fn made(&mut self, now: Instant) {
        self.next = self.next.max(Self::earliest(now)) + PACE;
    }

    /// A whole burst before now.
    fn earliest(now: Instant) -> Instant {
        let burst = PACE * (CONNECTIONS - 1);
        now.checked_sub(burst).unwrap_or(now)
    }
}

/// A socket that whoever finds it may connect to: the way to its folder is closed.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// The next connection, from a moment on, and by which door it came. Cancelling it loses none.
async fn accepted(doors: &[Door], from: Instant) -> io::Result<(usize, UnixStream)> {
    sleep_until(from).await;
    poll_fn(|context| {
        for (number, door) in doors.iter().enumerate() {
            if let Poll::Ready(accepted) = door.listener.poll_accept(context) {
                return Poll::Ready(accepted.map(|(stream, _)| (number, stream)));
            }
        }
        Poll::Pending
    })
    .await
}

async fn pass(
    run: RunId,
    near: UnixStream,
    service: Arc<Service>,
    counts: Arc<Counts>,
    lookups: Arc<Semaphore>,
) {
    match timeout(DIAL, dial(&service, lookups)).await.unwrap_or_else(|late| Err(late.into())) {
        Ok(far) => {
            counts.connections.fetch_add(1, Relaxed);
            exchange(near, far, &counts, IDLE).await;
        }
        Err(error) => {
            let refused = counts.refused.fetch_add(1, Relaxed) + 1;
            // A run may try for ever; the log need not tell each time.
            if refused.is_power_of_two() {
                tracing::warn!(%run, %service, %error, refused, "a service cannot be reached for a run");
            }
        }
    }
}

/// Connects to the first address of a service at which somebody answers. When this is cancelled, a lookup keeps its place
/// until the resolver is done with it.
async fn dial(service: &Service, lookups: Arc<Semaphore>) -> io::Result<TcpStream> {
    let place = lookups.acquire_owned().await.map_err(io::Error::other)?;
    let (host, port) = service.dialled();
    let host = host.to_owned();
    let looked_up = spawn_blocking(move || {
        let addresses = (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
        drop(place);
        addresses
    });
    let addresses: Vec<SocketAddr> = looked_up.await.map_err(io::Error::other)??;
    TcpStream::connect(&*addresses).await
}

/// Copies both ways until the service ends, both have, or nothing has been passed on for too long.
async fn exchange(mut near: UnixStream, mut far: TcpStream, counts: &Counts, idle: Duration) {
    // Answers of a database are many small pieces, which are not to wait for each other.
    let _as_it_is = far.set_nodelay(true);
    let passed = Mutex::new(Instant::now());
    let (near_read, near_write) = near.split();
    let (far_read, far_write) = far.split();
    let sending = async {
        // The service may have an answer to the end of what it was sent.
        if copy(near_read, far_write, &counts.sent, &passed).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let receiving = copy(far_read, near_write, &counts.received, &passed);
    let rest = async {
        loop {
            let until = last(&passed) + idle;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    };
    // The causes are the service's and the run's own, and both see that it ended.
    tokio::select! {
        () = sending => {}
        _ = receiving => {}
        () = rest => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &AtomicU64,
    passed: &Mutex<Instant>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(piece.get(..length).unwrap_or_default()).await?;
        count.fetch_add(length as u64, Relaxed);
        *passed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }
}

fn last(passed: &Mutex<Instant>) -> Instant {
    *passed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
