//! Passwords, right and wrong, and whoever goes away meanwhile.

use super::*;
use crate::throttle::BURST;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

struct Site {
    _folder: tempfile::TempDir,
    path: PathBuf,
    authenticator: Authenticator,
}

/// A site where ada logs in with `first`.
fn site() -> Site {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("htpasswd");
    Htpasswd::add(&path, &ada(), "first").expect("add");
    let authenticator = Authenticator::new(&path, None).expect("authenticator");
    Site { _folder: folder, path, authenticator }
}

fn ada() -> UserName {
    "ada".parse().expect("name")
}

impl Site {
    async fn login(&self, user: &str, password: &str) -> Result<Identity, AuthenticationError> {
        let admitted = self.authenticator.authenticate(user, password, HERE, Accounts::All).await?;
        assert_eq!(admitted.source, Source::File);
        Ok(admitted.who)
    }
}

#[tokio::test]
async fn right_and_wrong_and_changed_passwords() {
    let site = site();
    for _ in 0..2 {
        assert_eq!(site.login("ada", "first").await.expect("right").name(), Some(&ada()));
    }
    let voucher = site.authenticator.voucher(&ada()).expect("read").expect("ada is there");
    assert_eq!(voucher.to_string().parse(), Ok(voucher.clone()));
    for (name, password) in [("ada", "wrong"), ("eve", "first"), ("", "first"), ("ada", "")] {
        let refused = site.login(name, password).await;
        assert!(matches!(refused, Err(AuthenticationError::Wrong)), "{name}:{password}");
    }
    Htpasswd::set_password(&site.path, &ada(), "second").expect("passwd");
    assert!(site.login("ada", "first").await.is_err(), "the old password is forgotten");
    assert!(site.login("ada", "second").await.is_ok());
    assert_ne!(site.authenticator.voucher(&ada()).expect("read"), Some(voucher));
    Htpasswd::remove(&site.path, &ada()).expect("remove");
    assert!(site.login("ada", "second").await.is_err());
    assert_eq!(site.authenticator.voucher(&ada()).expect("read"), None);
}

#[test]
fn every_wrong_password_costs_what_the_dearest_user_costs() {
    let site = site();
    let line = |name: &str, cost: u32| {
        // No password's, and of any cost at once.
        format!("{name}:$2y${cost:02}{NOBODY}\n")
    };
    for (lines, dearest) in [
        (String::new(), COST),
        (line("ada", 4), 4),
        (line("ada", 12) + &line("bob", 5) + &line("eve", 6), 12),
        // What cannot be checked sets no cost, and has none.
        (line("ada", 5) + &line("bob", 99) + &line("eve", 3), 5),
    ] {
        fs::write(&site.path, &lines).expect("written");
        let users = Users::of(Htpasswd::read(&site.path).expect("read"));
        assert_eq!(users.dearest, dearest, "{lines}");
        for name in ["ada", "bob", "eve", "nobody"] {
            let hash = users.file.hash_of(&name.parse().expect("name"));
            let spent = hash.and_then(cost);
            let rounds = |cost: u32| 1_u64 << cost;
            let all: u64 = spent.into_iter().chain(left_to_spend(spent, dearest)).map(rounds).sum();
            assert_eq!(all, rounds(dearest), "{name} of {lines}");
        }
    }
}

#[test]
fn what_stands_in_for_nobody_can_be_checked() {
    // One that bcrypt cannot read would be told at once.
    assert_eq!(bcrypt::verify("", &format!("$2y$04{NOBODY}")).ok(), Some(false));
    assert!(bcrypt::verify("", &format!("$2y$03{NOBODY}")).is_err());
    let hash = bcrypt::hash("first", 4).expect("a hash");
    assert!(is_right("first", Some(&hash), 6));
    assert!(!is_right("wrong", Some(&hash), 6) && !is_right("first", Some("$2y$99$"), 6));
    assert!(!is_right("first", None, 6));
}

#[tokio::test]
async fn a_remembered_password_costs_no_bcrypt() {
    let site = site();
    site.login("ada", "first").await.expect("right");
    site.authenticator.checks.known.close();
    site.authenticator.checks.strangers.close();
    assert!(site.login("ada", "first").await.is_ok(), "remembered");
    let unfinished = site.login("ada", "wrong").await;
    assert!(matches!(unfinished, Err(AuthenticationError::Unfinished)), "this one would cost one");
}

#[tokio::test]
async fn many_requests_of_one_login_are_one_attempt() {
    let site = site();
    let logins = (0..4 * BURST).map(|_| site.login("ada", "first"));
    for login in futures_util::future::join_all(logins).await {
        assert!(login.is_ok(), "{login:?}");
    }
}

#[tokio::test]
async fn wrong_passwords_are_slowed_down_and_right_ones_are_not() {
    let site = site();
    // Quick hashes, so that what was counted is not forgotten meanwhile.
    let hash = bcrypt::hash("first", 4).expect("a hash");
    fs::write(&site.path, format!("ada:{hash}\nbob:{hash}\n")).expect("written");
    site.login("ada", "first").await.expect("right");
    for number in 0..BURST {
        let wrong = site.login("bob", &number.to_string()).await;
        assert!(matches!(wrong, Err(AuthenticationError::Wrong)), "{number}: {wrong:?}");
    }
    for name in ["bob", "eve"] {
        let refused = site.login(name, "one more").await;
        assert!(matches!(refused, Err(AuthenticationError::TooMany(_))), "{name}: {refused:?}");
    }
    site.authenticator.remembered.clear();
    assert!(site.login("ada", "first").await.is_ok(), "who has logged in from here before is not touched");
}

#[tokio::test]
async fn many_people_behind_one_address_may_log_in_at_once() {
    let site = site();
    // The lowest cost there is, and one hash for all: how long it takes is not looked at.
    let hash = bcrypt::hash("first", 4).expect("a hash");
    let names: Vec<String> = (0..2 * BURST).map(|number| format!("u{number}")).collect();
    let lines: Vec<String> = names.iter().map(|name| format!("{name}:{hash}")).collect();
    fs::write(&site.path, lines.join("\n")).expect("written");
    let logins = names.iter().map(|name| site.login(name, "first"));
    for login in futures_util::future::join_all(logins).await {
        assert!(login.is_ok(), "{login:?}");
    }
}

#[tokio::test]
async fn wrong_passwords_at_once_do_not_slip_through() {
    let site = site();
    let hash = bcrypt::hash("first", 4).expect("a hash");
    let names: Vec<String> = (0..2 * BURST).map(|number| format!("u{number}")).collect();
    let lines: Vec<String> = names.iter().map(|name| format!("{name}:{hash}")).collect();
    fs::write(&site.path, lines.join("\n")).expect("written");
    let attempts = names.iter().map(|name| site.login(name, "wrong"));
    let answers = futures_util::future::join_all(attempts).await;
    let wrong = answers.iter().filter(|answer| matches!(answer, Err(AuthenticationError::Wrong))).count();
    assert_eq!(wrong, BURST as usize);
}

/// Goes on with an attempt until bcrypt runs for it.
async fn until_bcrypt_runs(site: &Site, login: &mut std::pin::Pin<&mut impl Future>) {
    let runs = std::future::poll_fn(|context| {
        let _ = login.as_mut().poll(context);
        context.waker().wake_by_ref();
        match site.authenticator.checks.strangers.available_permits() {
            0 => std::task::Poll::Ready(()),
            _ => std::task::Poll::Pending,
        }
    });
    runs.await;
}

#[tokio::test]
async fn who_goes_away_leaves_nothing_behind() {
    let site = site();
    for number in 0..3 {
        let password = format!("wrong {number}");
        {
            let mut login = std::pin::pin!(site.login("ada", &password));
            until_bcrypt_runs(&site, &mut login).await;
            assert_eq!(site.authenticator.state().checking.len(), 1);
        }
        assert!(site.authenticator.state().checking.is_empty(), "nobody waits for {password}");
    }
}

#[tokio::test]
async fn who_goes_away_makes_no_room_for_another_bcrypt() {
    let site = site();
    // A second or so.
    let hash = bcrypt::hash("first", 14).expect("a hash");
    fs::write(&site.path, format!("ada:{hash}\n")).expect("written");
    {
        let mut login = std::pin::pin!(site.login("ada", "wrong"));
        until_bcrypt_runs(&site, &mut login).await;
    }
    assert_eq!(site.authenticator.checks.strangers.available_permits(), 0, "it still runs");
    // The next one gets its turn when it is over.
    assert!(matches!(site.login("ada", "wrong").await, Err(AuthenticationError::Wrong)));
}

#[tokio::test]
async fn one_of_many_who_goes_away_takes_nothing_from_the_others() {
    let site = site();
    {
        let mut first = std::pin::pin!(site.login("ada", "first"));
        until_bcrypt_runs(&site, &mut first).await;
        let mut second = std::pin::pin!(site.login("ada", "first"));
        let _ = futures_util::poll!(second.as_mut());
        // `first` goes away when this ends, and so does `second`; what a third waits for is theirs.
        assert_eq!(site.authenticator.state().checking.len(), 1);
    }
    assert!(site.authenticator.state().checking.is_empty());
    assert!(site.login("ada", "first").await.is_ok());
}

#[test]
fn many_who_go_away_at_one_moment_leave_nothing_behind() {
    const ROUNDS: u32 = 20_000;
    let site = site();
    let all = std::sync::Barrier::new(2);
    let goes_away = || {
        for round in 0..ROUNDS {
            let checking = Checking::of(&site.authenticator, [0; 32]);
            all.wait();
            drop(checking);
            all.wait();
            assert!(site.authenticator.state().checking.is_empty(), "round {round}");
            all.wait();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(goes_away);
        scope.spawn(goes_away);
    });
}

#[test]
fn what_ends_takes_nothing_that_somebody_else_has_begun_since() {
    let site = site();
    let digest = site.authenticator.digest("ada", "first");
    let over = Checking::of(&site.authenticator, digest);
    over.is_over();
    let next = Checking::of(&site.authenticator, digest);
    assert!(!Arc::ptr_eq(&over.cell, &next.cell), "nobody joins what is over");
    over.is_over();
    drop(over);
    let joined = Checking::of(&site.authenticator, digest);
    assert!(Arc::ptr_eq(&next.cell, &joined.cell), "it is still there");
    drop(next);
    assert_eq!(site.authenticator.state().checking.len(), 1, "somebody still waits for it");
    drop(joined);
    assert!(site.authenticator.state().checking.is_empty());
}

#[test]
fn the_line_of_strangers_has_a_bounded_length() {
    let count = AtomicUsize::new(0);
    let line: Vec<_> = (0..MAX_WAITING).map(|_| Waiting::among(&count).expect("room")).collect();
    assert!(matches!(Waiting::among(&count), Err(AuthenticationError::TooMany(_))), "one past it");
    drop(line);
    assert_eq!(count.load(Ordering::Relaxed), 0);
    assert!(Waiting::among(&count).is_ok());
}
