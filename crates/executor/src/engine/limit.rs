//! How long the engine may take for each kind of call. Short ones are how an engine that hangs is noticed; long ones are for
//! work that takes its time on a slow disk, and an engine that hangs in the middle of such is noticed by the short ones.

use std::time::Duration;

/// Whether it answers, and in which version: it looks nothing up for that, so only a host that is out of breath takes
/// seconds.
pub(super) const PING: Duration = Duration::from_secs(10);

/// What it knows of one thing. It waits for whoever is at work on the same container, such as its start.
pub(super) const INSPECT: Duration = Duration::from_secs(30);

/// What it holds of this instance, and what it says of itself: it goes through everything it has.
pub(super) const LIST: Duration = Duration::from_secs(30);

/// Making a volume or a container: some folders and mounts on the engine's disk, beside whatever is unpacked there.
pub(super) const CREATE: Duration = Duration::from_mins(1);

/// Starting a container: namespaces, control groups and a few processes. A sandbox with a kernel of its own (gVisor) takes
/// seconds, and many at once take longer.
pub(super) const START: Duration = Duration::from_mins(1);

/// Ending a container's processes: the engine itself waits ten seconds for them before it says that they do not end.
pub(super) const KILL: Duration = Duration::from_secs(30);

/// Removing something: a volume of many small files on a slow disk takes longest.
pub(super) const REMOVE: Duration = Duration::from_mins(2);

/// What a container uses now: the engine reads a few files of the kernel's. It is asked again a second later.
pub(super) const USED: Duration = Duration::from_secs(10);

/// How large the volumes are: the engine walks all of them.
pub(super) const MEASURE: Duration = Duration::from_mins(2);

/// How long a pull may tell of no progress. Some engines tell of none while they unpack a layer, and one of gigabytes takes
/// minutes on a slow disk.
pub(super) const PULL_SILENCE: Duration = Duration::from_mins(5);

/// How long what the engine reads from its disk may pause: an output, a log.
pub(super) const SILENCE: Duration = Duration::from_mins(1);

/// No answer is begun later than this; the client library knows one limit for all calls.
pub(super) const LONGEST: Duration = REMOVE;
