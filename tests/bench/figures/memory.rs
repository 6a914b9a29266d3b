//! The most memory of its own that a server has while large blobs go in and out.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{Bench, Values, split};
use crate::{
    failure::Failure,
    figure::Samples,
    load::{Connection, Payload},
    server::{Peer, REPOSITORY, Server, Transport},
};

/// How long between two looks at the memory.
const LOOK: Duration = Duration::from_millis(5);

/// Pushes and pulls of large blobs, all at once. One round: a peak varies little, and this writes the most.
pub(super) fn peak(bench: &Bench<'_>) -> Result<Values, Failure> {
    let payload = Payload::write(&bench.folder.join("payload"), bench.scale.large, 4)?;
    let variants: Vec<Payload> =
        (0..bench.scale.parallel as u64).map(|number| payload.variant(number)).collect::<Result<_, _>>()?;
    let mut all = Vec::new();
    // One after the other, so that there is room on the disk for one at a time.
    let peers = [Peer::Torno, Peer::Distribution];
    for peer in peers.into_iter().filter(|peer| !bench.without.contains(peer)) {
        let mut samples = Samples::default();
        let server = Server::start(peer, bench.programs, bench.folder, Transport::Clear)?;
        server.give_blob(&mut Connection::open(&server.target)?, &payload)?;
        samples.push(peak_of(&server, &payload, &variants)?);
        for pushed in &variants {
            let path = server.blob_path(&pushed.digest);
            Connection::open(&server.target)?.ask("HEAD", &path, &[], &[], 200)?;
        }
        drop(server);
        let folder = bench.folder.join(peer.to_string());
        fs::remove_dir_all(folder).map_err(Failure::io("what was pushed could not be removed"))?;
        all.push((peer, samples));
    }
    Ok(split(all))
}

/// The peak in MiB.
fn peak_of(server: &Server, payload: &Payload, variants: &[Payload]) -> Result<f64, Failure> {
    let target = &server.target;
    let path = server.blob_path(&payload.digest);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = anonymous(server.id());
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(anonymous(server.id()));
                thread::park_timeout(LOOK);
            }
            peak
        });
        let pushes: Vec<_> = variants
            .iter()
            .map(|pushed| scope.spawn(|| Connection::open(target)?.push(REPOSITORY, pushed)))
            .collect();
        let pulls: Vec<_> = variants
            .iter()
            .map(|_| scope.spawn(|| Connection::open(target)?.pull(&path, payload.size)))
            .collect();
        let ended: Vec<Result<(), Failure>> = pushes
            .into_iter()
            .chain(pulls)
            .map(|thread| thread.join().expect("a client does not panic"))
            .collect();
        done.store(true, Ordering::Relaxed);
        let peak = watch.join().expect("looking does not panic");
        ended.into_iter().collect::<Result<(), _>>()?;
        #[expect(clippy::cast_precision_loss, reason = "far less than 2^52")]
        peak.map(|kib| kib as f64 / 1024.0)
            .ok_or_else(|| Failure::Wrong(format!("the memory of {} could not be read", target.peer)))
    })
}

/// `RssAnon` in KiB (proc(5)): what a process has in memory that is no page of a file.
fn anonymous(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
