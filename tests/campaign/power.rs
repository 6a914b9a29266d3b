//! The power is cut under load, again and again.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    arguments::Arguments,
    collector::Clock,
    disk::{Disk, Kind, Power},
    engine::NO_ENGINE,
    failure::Failure,
    kills::{CLIENTS, RESTED, check, collect, load, verify},
    model::World,
    noise::Noise,
    phase::{self, Phase},
    server::Server,
    tally::{Tally, Wrong},
    work::Shared,
};

/// Milliseconds of load between two cuts: some are before, and some after, what small pushes left to be settled is.
const LIFE: u64 = 1800;

/// Cuts the power as often as asked: first on ext4, and the last time and every third on XFS.
pub(crate) fn run(arguments: &Arguments, folder: &Path, tally: &Tally) -> Result<(), Failure> {
    let on_xfs = arguments.cuts.div_ceil(3);
    let mut done = 0;
    for (kind, cuts) in [(Kind::Ext4, arguments.cuts - on_xfs), (Kind::Xfs, on_xfs)] {
        if cuts == 0 {
            continue;
        }
        let folder = folder.join(format!("{kind:?}"));
        std::fs::create_dir(&folder).map_err(Failure::io("a folder"))?;
        let disk = Disk::make(&folder, kind)?;
        on(&disk, arguments, done..done + cuts, tally)?;
        done += cuts;
        println!("{done} of {} power cuts, the last {cuts} on {kind:?}: {tally}", arguments.cuts);
    }
    Ok(())
}

fn on(disk: &Disk, arguments: &Arguments, cuts: std::ops::Range<u64>, tally: &Tally) -> Result<(), Failure> {
    let mut server = Server::make(&arguments.torno, &disk.path().join("site"), NO_ENGINE)?;
    disk.sync()?;
    server.start()?;
    let clock = Clock::default();
    let worlds: Vec<Mutex<World>> = (0..CLIENTS).map(|_| Mutex::default()).collect();
    for cut in cuts {
        phase::go_on()?;
        // Other chances than those of the kills.
        let mut noise = Noise::of(!arguments.seed, cut);
        let phase = Phase::default();
        let shared = Shared { clock: &clock, tally, phase: &phase, seed: arguments.seed, runnable: None };
        let life = Duration::from_millis(100 + noise.below(LIFE));
        let mut taken = None;
        load(&server, &worlds, shared, &mut noise, || {
            phase.last(life);
            taken = Some(take(disk, &worlds)?);
            Ok(())
        })?;
        let Some((power, known)) = taken else { continue };
        let when = format!("power cut {}", cut + 1);
        let looked = look(power, arguments, &known, &clock.copy(), tally, &when);
        match looked {
            // A site that does not come up has lost everything.
            Err(Failure::Wrong(why)) => tally.wrong(Wrong::Lost, &when, &why),
            Err(Failure::Database(error)) => tally.wrong(Wrong::Lost, &when, &error.to_string()),
            looked => looked?,
        }
    }
    Ok(())
}

/// Starts Torno on what is left, and compares that with what is known.
fn look(
    power: Power<'_>,
    arguments: &Arguments,
    known: &[Mutex<World>],
    clock: &Clock,
    tally: &Tally,
    when: &str,
) -> Result<(), Failure> {
    let since = Instant::now();
    let mounted = power.mount()?;
    let mut server = Server::at(&arguments.torno, &mounted.path().join("site"), NO_ENGINE);
    server.start()?;
    check(&server, known, clock, tally, when)?;
    verify(&server, tally, when)?;
    thread::park_timeout(RESTED.saturating_sub(since.elapsed()));
    collect(&server, clock, tally, when)?;
    check(&server, known, clock, tally, &format!("{when}, after a collection"))?;
    verify(&server, tally, when)
}

/// Cuts the power; what was certain before and is so still must be true of what is left.
fn take<'a>(disk: &'a Disk, worlds: &[Mutex<World>]) -> Result<(Power<'a>, Vec<Mutex<World>>), Failure> {
    let copy = || -> Vec<World> {
        worlds.iter().map(|world| world.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    };
    let before = copy();
    let power = disk.cut()?;
    let after = copy();
    let known = before.into_iter().zip(&after).map(|(before, after)| Mutex::new(before.throughout(after)));
    Ok((power, known.collect()))
}
