//! `torno-relay MOST READY ADDRESS:PORT=SOCKET…`: stands in the network namespace of a run, which has no way out, and
//! passes what comes to each address on to a Unix socket, behind which is the executor.
//!
//! It decides nothing: whom the executor dials for a socket is known there alone. At most `MOST` connections are passed on
//! at once, and what comes beyond is closed at once. When it listens everywhere it says so by connecting to `READY`.

use std::{
    env,
    error::Error,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// What is read at once.
const PIECE: usize = 16 << 10;

/// A thread keeps a piece and little more.
const STACK: usize = 64 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let most: usize = arguments.next().ok_or("how many connections?")?.parse()?;
    let ready = arguments.next().ok_or("who is to be told?")?;
    let connections = Arc::new(AtomicUsize::new(0));
    let mut doors = Vec::new();
    for door in arguments {
        let (address, socket) = door.split_once('=').ok_or("an address and a socket are needed")?;
        doors.push((TcpListener::bind(address)?, socket.to_owned()));
    }
    let mut threads = Vec::new();
    for (listener, socket) in doors {
        let connections = Arc::clone(&connections);
        let accept = move || {
            loop {
                // What cannot be accepted, such as what has gone already, is not there.
                let Ok((near, _)) = listener.accept() else { continue };
                if let Some(place) = Place::take(&connections, most) {
                    begin(near, &socket, place);
                }
            }
        };
        threads.push(thread::Builder::new().stack_size(STACK).spawn(accept)?);
    }
    drop(UnixStream::connect(ready)?);
    for thread in threads {
        let _never = thread.join();
    }
    Ok(())
}

/// One of the connections that there may be at once.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(connections: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(connections));
        (place.0.fetch_add(1, Ordering::SeqCst) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A connection that cannot be passed on is closed.
fn begin(near: TcpStream, socket: &str, place: Place) {
    let Ok(far) = UnixStream::connect(socket) else { return };
    let pass = move || {
        let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { return };
        let there = thread::Builder::new().stack_size(STACK).spawn(move || {
            if copy(&near_too, &far_too).is_ok() {
                let _gone = far_too.shutdown(Shutdown::Write);
            } else {
                let _gone = far_too.shutdown(Shutdown::Both);
            }
        });
        if let Ok(there) = there {
            // When nothing comes from over there any more, there is nobody to speak to either.
            let _ended = copy(&far, &near);
            let _gone = near.shutdown(Shutdown::Both);
            let _gone = far.shutdown(Shutdown::Both);
            let _ended = there.join();
        }
        drop(place);
    };
    let _closed_if_not = thread::Builder::new().stack_size(STACK).spawn(pass);
}

fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut piece = [0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(piece.get(..length).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
