//! A flood of wrong passwords, from outside.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use torno_tests::{Http, Site, wait_until};

/// Wrong attempts that are answered as such before they are slowed down (`crates/auth/src/throttle.rs`).
const BURST: usize = 20;

#[test]
fn wrong_passwords_are_slowed_down() {
    let site = Site::start_with("", &["ada", "bob"]);
    site.http("ada").get("/v2/").expect(200);
    // While that takes long, one or the other more is let through.
    let mut wrong = 0;
    while site.http_with("bob", &format!("wrong {wrong}")).get("/v2/").status == 401 {
        wrong += 1;
        assert!(wrong < 2 * BURST, "they are never slowed down");
    }
    assert!(wrong >= BURST, "{wrong}");
    let refused = |user: &str, path: &str| {
        let answer = wait_until("a refusal", || {
            let answer = site.http_with(user, "one more").get(path);
            (answer.status == 429).then_some(answer)
        });
        let message = answer.expect_error(429, "TOOMANYREQUESTS");
        let wait: u64 = answer.header("retry-after").parse().expect("seconds");
        assert!((1..=8).contains(&wait), "{wait}");
        assert!(message.contains("wait"), "{message}");
    };
    // Known and unknown alike, whatever they ask for, and for tokens too.
    refused("bob", "/v2/");
    refused("nobody", "/v2/");
    refused("bob", "/token");
    // Who has logged in from here before is counted apart.
    site.http("ada").get("/v2/").expect(200);
    site.http_with("ada", "a slip").get("/v2/").expect_error(401, "UNAUTHORIZED");
    let log = site.log();
    assert!(!log.contains("one more") && !log.contains("pw-ada"), "no password is logged");
}

#[test]
fn a_flood_does_not_slow_right_passwords() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let over = AtomicBool::new(false);
    let quiet = median(&ada);
    thread::scope(|scope| {
        for stranger in 0..8 {
            let (site, over) = (&site, &over);
            scope.spawn(move || {
                let mut number = 0;
                while !over.load(Ordering::Relaxed) {
                    number += 1;
                    let user = format!("user-{stranger}-{number}");
                    let status = site.http_with(&user, "wrong").get("/v2/").status;
                    assert!(matches!(status, 401 | 429), "{status}");
                }
            });
        }
        wait_until("they are slowed down", || {
            (site.http_with("somebody", "wrong").get("/v2/").status == 429).then_some(())
        });
        let flooded = median(&ada);
        over.store(true, Ordering::Relaxed);
        // Both processors are busy with the flood itself; a bcrypt in the way would be fifty times as long.
        assert!(flooded < quiet * 20 + Duration::from_millis(5), "{flooded:?} beside {quiet:?}");
    });
}

/// How long one request takes, of many.
fn median(http: &Http) -> Duration {
    let mut times: Vec<Duration> = (0..101)
        .map(|_| {
            let since = Instant::now();
            http.get("/v2/").expect(200);
            since.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}
