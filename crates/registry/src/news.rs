//! News between the processes of one data directory: a run was queued, or has changed.
//!
//! Each process that waits for news has a datagram socket of its own in `news/`, and whoever changes a run sends a byte
//! to each of the others. It says nothing but "look": what is so stands in the database. News that nobody hears is not
//! lost either, since whoever begins to listen looks first.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind},
    os::{
        fd::AsRawFd as _,
        unix::{fs::DirBuilderExt as _, net::UnixDatagram as Sender},
    },
    path::{Path, PathBuf},
};

use tokio::{
    net::UnixDatagram,
    sync::{Notify, watch},
};

use crate::{Registry, RegistryError};

/// What this process knows to be new, and whom it tells.
#[derive(Debug)]
pub(crate) struct News {
    folder: PathBuf,
    /// Rung when a run may have been queued.
    pub(crate) queued: Notify,
    /// Changes when any run does.
    pub(crate) changed: watch::Sender<()>,
}

/// Where a process hears the others. What they send before it listens waits there.
#[derive(Debug)]
pub struct Ear {
    socket: UnixDatagram,
    path: PathBuf,
}

impl News {
    /// Those of a data directory.
    pub(crate) fn of(data: &Path) -> Self {
        Self { folder: data.join("news"), queued: Notify::new(), changed: watch::Sender::new(()) }
    }

    /// A run was queued, or may be claimed now.
    pub(crate) fn queued(&self) {
        self.queued.notify_one();
        self.changed();
    }

    /// A run has changed.
    pub(crate) fn changed(&self) {
        self.changed.send_replace(());
        if let Err(error) = self.tell() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "other processes of this registry were not told that a run has changed");
        }
    }

    /// Tells whoever listens, this process too if it does. A look into a small folder and a byte for each: nothing that
    /// waits.
    fn tell(&self) -> io::Result<()> {
        let folder = match File::open(&self.folder) {
            // Nobody has ever listened here.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            folder => folder?,
        };
        let sender = Sender::unbound()?;
        sender.set_nonblocking(true)?;
        for listener in fs::read_dir(&self.folder)? {
            let name = listener?.file_name();
            match sender.send_to(&[0], short(&folder).join(&name)) {
                Ok(_) => {}
                // Its process is dead.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    fs::remove_file(self.folder.join(name)).or_else(gone)?;
                }
                // It has not heard of what it was told before yet, and looks once for all.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => gone(error)?,
            }
        }
        Ok(())
    }

    fn listen(&self) -> io::Result<Ear> {
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(io::Error::other)?;
        DirBuilder::new().recursive(true).mode(0o770).create(&self.folder)?;
        let name = hex::encode(name);
        let socket = UnixDatagram::bind(short(&File::open(&self.folder)?).join(&name))?;
        Ok(Ear { socket, path: self.folder.join(name) })
    }
}

/// A path of a folder that fits into a socket's address (108 bytes), wherever the folder is.
fn short(folder: &File) -> PathBuf {
    format!("/proc/self/fd/{}", folder.as_raw_fd()).into()
}

/// Somebody else has removed it.
fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

impl Drop for Ear {
    fn drop(&mut self) {
        // One that stays is removed by whoever next has news.
        let _ = fs::remove_file(&self.path);
    }
}

impl Registry {
    /// Somewhere to hear what other processes do. Whoever wants to miss nothing looks at the database after this.
    pub fn ear(&self) -> Result<Ear, RegistryError> {
        self.news.listen().map_err(RegistryError::News)
    }

    /// Passes on what other processes tell, for as long as it is waited for. Cancelling it is harmless.
    pub async fn hear(&self, ear: &Ear) -> Result<(), RegistryError> {
        loop {
            ear.socket.recv(&mut [0]).await.map_err(RegistryError::News)?;
            // Whatever came together is looked at once.
            while ear.socket.try_recv(&mut [0]).is_ok() {}
            self.news.queued.notify_one();
            self.news.changed.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_reaches_whoever_listens_and_the_dead_are_forgotten() {
        let data = tempfile::tempdir().expect("folder");
        // Longer than a socket's address may be.
        let data = data.path().join("d".repeat(120));
        fs::create_dir(&data).expect("folder");
        let teller = News::of(&data);
        teller.changed();
        let (first, second) = (teller.listen().expect("an ear"), teller.listen().expect("an ear"));
        teller.queued();
        for ear in [&first, &second] {
            ear.socket.recv(&mut [0]).await.expect("news");
        }
        // As a process leaves it that is killed.
        let dead = first.path.clone();
        drop(first);
        drop(
            Sender::bind(short(&File::open(data.join("news")).expect("folder")).join("dead")).expect("bound"),
        );
        assert!(!dead.exists() && data.join("news/dead").exists());
        teller.changed();
        assert!(!data.join("news/dead").exists() && second.path.exists());
        second.socket.recv(&mut [0]).await.expect("news");
    }

    #[tokio::test]
    async fn whoever_does_not_listen_keeps_nobody_waiting() {
        let data = tempfile::tempdir().expect("folder");
        let teller = News::of(data.path());
        let ear = teller.listen().expect("an ear");
        // More than any socket takes.
        for _ in 0..10_000 {
            teller.tell().expect("told");
        }
        ear.socket.recv(&mut [0]).await.expect("news");
    }
}
