//! The server is killed under load, again and again.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    arguments::Arguments,
    check::Check,
    client::Client,
    collector::{self, Clock, Grace},
    engine::{self, NO_ENGINE, Runnable, Tidy},
    failure::Failure,
    model::World,
    noise::Noise,
    phase::{self, Phase},
    server::Server,
    store::Store,
    tally::{Tally, Wrong},
    work::{Shared, Worker},
};

/// Clients at work at a time.
pub(crate) const CLIENTS: u64 = 8;

/// Milliseconds that a server lives under load, at most.
const LIFE: u64 = 500;

/// After so many kills what a collection leaves behind is looked at.
const LEAKS: u64 = 4;

/// How long an upload must have rested to be garbage to [`collector::command`], and a little more.
pub(crate) const RESTED: Duration = Duration::from_millis(1100);

/// Kills the server as often as asked.
pub(crate) fn run(arguments: &Arguments, folder: &Path, tally: &Tally) -> Result<(), Failure> {
    if arguments.kills == 0 {
        return Ok(());
    }
    let site = folder.join("killed");
    let engine = arguments.engine.as_deref();
    let runnable = engine.map(|_| Runnable::new(folder)).transpose()?;
    let data = site.join("registry-data");
    let _tidy = engine.map(|_| Tidy(&data));
    let mut server = Server::make(&arguments.torno, &site, engine.unwrap_or(NO_ENGINE))?;
    server.start()?;
    let clock = Clock::default();
    let worlds: Vec<Mutex<World>> = (0..CLIENTS).map(|_| Mutex::default()).collect();
    for kill in 1..=arguments.kills {
        phase::go_on()?;
        let mut noise = Noise::of(arguments.seed, kill);
        let phase = Phase::default();
        let shared =
            Shared { clock: &clock, tally, phase: &phase, seed: arguments.seed, runnable: runnable.as_ref() };
        let life = Duration::from_millis(noise.below(LIFE));
        load(&server, &worlds, shared, &mut noise, || {
            phase.last(life);
            phase.end();
            server.kill_now()
        })?;
        server.kill()?;
        let killed = Instant::now();
        tally.killed();
        if noise.once_in(5) {
            // Once more, while it puts in order what the first kill left.
            server.begin()?;
            thread::park_timeout(Duration::from_millis(noise.below(60)));
            server.kill()?;
        }
        server.start()?;
        let when = format!("kill {kill}");
        check(&server, &worlds, &clock, tally, &when)?;
        if kill % LEAKS == 0 || kill == arguments.kills {
            thread::park_timeout(RESTED.saturating_sub(killed.elapsed()));
            collect(&server, &clock, tally, &when)?;
            check(&server, &worlds, &clock, tally, &format!("{when}, after a collection"))?;
        }
        if kill % 20 == 0 {
            println!("{kill} of {} kills: {tally}", arguments.kills);
        }
    }
    if runnable.is_some() {
        engine::finish(&server, &worlds, tally)?;
    }
    verify(&server, tally, "at the end of all kills")
}

/// Lets all clients and a collector work until `end` has ended the phase.
pub(crate) fn load(
    server: &Server,
    worlds: &[Mutex<World>],
    shared: Shared<'_>,
    noise: &mut Noise,
    end: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    thread::scope(|scope| {
        for (number, world) in (0..).zip(worlds) {
            let noise = Noise::of(noise.next(), number);
            let mut worker = Worker::new(number, Client::new(server), world, shared, noise);
            scope.spawn(move || worker.work());
        }
        let noise = Noise::of(noise.next(), CLIENTS);
        let collecting = scope.spawn(move || {
            collector::keep_collecting(server, shared.phase, shared.clock, shared.tally, noise)
        });
        let ended = end();
        // Whatever became of it, nobody is waited for in vain.
        shared.phase.end();
        let collected = collecting.join();
        ended?;
        collected.map_err(|_| Failure::Wrong("the collector panicked".into()))?
    })
}

/// Compares what every client knows with what the server has, and looks for links that lead nowhere.
pub(crate) fn check(
    server: &Server,
    worlds: &[Mutex<World>],
    clock: &Clock,
    tally: &Tally,
    when: &str,
) -> Result<(), Failure> {
    let store = server.data();
    let store = Store::open(&store, tally, when)?;
    store.look_for_dangling()?;
    let client = Client::new(server);
    thread::scope(|scope| {
        for world in worlds {
            let check = Check { client: &client, clock, tally, when };
            scope.spawn(move || check.all(&mut world.lock().unwrap_or_else(PoisonError::into_inner)));
        }
    });
    for world in worlds {
        store.look_for_runs(&world.lock().unwrap_or_else(PoisonError::into_inner))?;
    }
    Ok(())
}

/// Lets Torno compare all that is stored with itself, while it serves and nothing else goes on.
pub(crate) fn verify(server: &Server, tally: &Tally, when: &str) -> Result<(), Failure> {
    let output = server.torno(&["verify"]).output().map_err(Failure::io("torno verify"))?;
    if !output.status.success() {
        let found = [output.stdout, output.stderr].concat();
        tally.wrong(Wrong::Dangling, when, &format!("torno verify: {}", String::from_utf8_lossy(&found)));
    }
    Ok(())
}

/// Collects garbage once, without grace and while nothing else goes on, and looks for what it left.
pub(crate) fn collect(server: &Server, clock: &Clock, tally: &Tally, when: &str) -> Result<(), Failure> {
    clock.start();
    let collected = Server::run(collector::command(server, Grace::None), "torno gc");
    clock.end();
    collected?;
    Store::open(&server.data(), tally, when)?.look_for_leaks()
}
