//! What somebody who may not see a repository learns from how long an answer takes: nothing.

use std::time::{Duration, Instant};

use torno_auth::Identity;
use torno_oci::Digest;
use torno_registry::RegistryError;

use crate::{Site, ada, name};

/// Pairs of questions that are compared. Medians of so many differ by a few hundredths.
const ROUNDS: usize = 301;

/// How much longer one may take. What is answered from memory takes a fiftieth of what the database is asked for.
const MORE: u32 = 3;

fn eve() -> Identity {
    Identity::of("eve".parse().expect("name"))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Fails if the two do not take as long as each other.
fn alike(what: &str, one: Vec<Duration>, other: Vec<Duration>) {
    let (one, other) = (median(one), median(other));
    assert!(one < other * MORE && other < one * MORE, "{what}: {one:?} and {other:?}");
}

#[tokio::test]
async fn a_refusal_takes_as_long_whether_the_name_is_known_or_not() {
    let site = Site::new();
    site.push("run/p/known", "v", "layer").await;
    site.push("tools/known", "v", "layer").await;
    for known in ["run/p/known", "results/p/known", "tools/known"] {
        let unknown = known.replace("known", "other");
        let (mut there, mut not_there) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // Its owner uses it, so that it is in memory.
            site.registry.pull_permit(&ada(), &name(known)).await.expect("hers");
            for (times, asked) in [(&mut there, known), (&mut not_there, unknown.as_str())] {
                let asked = name(asked);
                let since = Instant::now();
                let refused = site.registry.pull_permit(&eve(), &asked).await;
                times.push(since.elapsed());
                assert!(matches!(refused, Err(RegistryError::Refused(_))));
            }
        }
        alike(known, there, not_there);
    }
}

#[tokio::test]
async fn a_mount_takes_as_long_whether_others_have_the_blob_or_not() {
    /// Repositories of ada's that have it.
    const HOLDERS: usize = 20;
    let site = Site::new();
    for number in 0..HOLDERS {
        let permit = site.permit(&format!("tools/x{number}")).await;
        site.push_blob(&permit, b"held").await;
    }
    let to = site.registry.push_permit(&eve(), &name("eve/x")).await.expect("hers");
    let (mut held, mut unknown) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (times, bytes) in [(&mut held, &b"held"[..]), (&mut unknown, b"nobody's")] {
            let blob = Digest::sha256(bytes);
            let since = Instant::now();
            let mounted = site.registry.mount_from_anywhere(&eve(), &to, &blob).await.expect("asked");
            times.push(since.elapsed());
            assert!(!mounted);
        }
    }
    alike("a mount", held, unknown);
}
