//! Upload sessions that rest for too long, and those that do not.

use std::{
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::stream;
use torno_auth::PushPermit;
use torno_oci::UploadId;
use torno_registry::{DEFAULT_UPLOAD_LIFETIME as LIFETIME, RegistryError, Retention, Settings};

use crate::{NO_GRACE, Site};

impl Site {
    /// A session of 5 bytes that was last used so long ago, as a server that ended since has left it.
    fn old_session(&self, permit: &PushPermit, rested: Duration) -> UploadId {
        let other = crate::open(self.folder.path(), Settings::default());
        let id = other.begin_upload(permit).expect("begin");
        let path = self.folder.path().join("uploads").join(id.as_str());
        std::fs::write(&path, b"bytes").expect("write");
        let file = File::options().write(true).open(&path).expect("open");
        file.set_modified(SystemTime::now() - rested).expect("time");
        id
    }

    fn file_of_session(&self, id: &UploadId) -> PathBuf {
        self.folder.path().join("uploads").join(id.as_str())
    }

    fn has_session(&self, id: &UploadId) -> bool {
        self.file_of_session(id).exists()
    }
}

#[tokio::test]
async fn a_session_expires_when_nobody_has_used_it_for_its_lifetime() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    let minute = Duration::from_mins(1);
    let late = site.old_session(&permit, LIFETIME + minute);
    let early = site.old_session(&permit, LIFETIME * 99 / 100);
    // Before anybody has removed it, too.
    let unknown = site.registry.upload_offset(&permit, &late).await;
    assert!(matches!(unknown, Err(RegistryError::UploadUnknown)), "{unknown:?}");
    assert!(site.has_session(&late), "its bytes are still there");
    assert_eq!(site.registry.expire_uploads().await.expect("expire"), 1);
    assert_eq!((site.has_session(&late), site.has_session(&early)), (false, true));
    assert_eq!(site.registry.expire_uploads().await.expect("expire"), 0);
    assert_eq!(site.registry.upload_offset(&permit, &early).await.expect("alive"), 5);
}

#[tokio::test]
async fn a_session_without_bytes_outlives_a_restart_and_expires_too() {
    let site = Site::with(Settings { upload_lifetime: Duration::ZERO, ..Settings::default() });
    let permit = site.permit("tools/a").await;
    let id = site.registry.begin_upload(&permit).expect("begin");
    assert!(!site.has_session(&id), "it is its name, until there are bytes");
    let unknown = site.registry.upload_offset(&permit, &id).await;
    assert!(matches!(unknown, Err(RegistryError::UploadUnknown)), "{unknown:?}");
    site.registry.begin_upload(&permit).expect("begin");
    assert_eq!(site.registry.expire_uploads().await.expect("expire"), 1);

    let restarted = crate::open(site.folder.path(), Settings::default());
    assert_eq!(restarted.upload_offset(&permit, &id).await.expect("alive"), 0);
    let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"bytes"))]);
    assert_eq!(restarted.append(&permit, &id, Some(0), body).await.expect("append"), 5);
    restarted.cancel_upload(&permit, &id).await.expect("cancel");
    assert!(!site.has_session(&id));
}

#[tokio::test]
async fn a_session_that_is_used_lives_on() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    let id = site.old_session(&permit, LIFETIME * 99 / 100);
    site.registry.upload_offset(&permit, &id).await.expect("alive");
    let file = site.folder.path().join("uploads").join(id.as_str());
    let used = std::fs::metadata(file).and_then(|found| found.modified()).expect("time");
    assert!(used.elapsed().expect("past") < Duration::from_mins(1), "what another process judges by");
    assert_eq!(site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc").uploads, 0);
}

#[tokio::test]
async fn bytes_that_arrive_keep_a_session_alive_and_a_connection_alone_does_not() {
    /// As much as is written at once, whatever comes after.
    const PIECE: usize = 2 * 1024 * 1024;
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    let (busy, stalled) = (site.registry.begin_upload(&permit), site.registry.begin_upload(&permit));
    let (busy, stalled) = (busy.expect("begin"), stalled.expect("begin"));
    let some = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"some"))]);
    site.registry.append(&permit, &stalled, None, some).await.expect("append");
    let append = |id: &UploadId| {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let body = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let (registry, permit, id) = (Arc::clone(&site.registry), permit.clone(), id.clone());
        let request = async move { registry.append(&permit, &id, None, Box::pin(body)).await };
        (sender, tokio::spawn(request))
    };
    let ((bytes, uploading), (silent, waiting)) = (append(&busy), append(&stalled));
    let is_fresh = |id: &UploadId| {
        let used = std::fs::metadata(site.file_of_session(id)).and_then(|found| found.modified());
        used.is_ok_and(|used| used.elapsed().is_ok_and(|rested| rested < LIFETIME / 2))
    };
    let mut sent = 0;
    // Twice, and in between neither has been used for longer than it may rest.
    for round in 0..2 {
        bytes.send(Ok(Bytes::from(vec![0; PIECE]))).await.expect("the request reads");
        sent += PIECE as u64;
        while !is_fresh(&busy) {
            tokio::task::yield_now().await;
        }
        if round == 0 {
            for id in [&busy, &stalled] {
                let file = File::options().write(true).open(site.file_of_session(id)).expect("open");
                file.set_modified(SystemTime::now() - LIFETIME - Duration::from_mins(1)).expect("time");
            }
        }
    }
    assert_eq!(site.registry.expire_uploads().await.expect("expire"), 1);
    assert_eq!((site.has_session(&busy), site.has_session(&stalled)), (true, false));
    drop(bytes);
    assert_eq!(uploading.await.expect("no panic").expect("all came"), sent);
    assert_eq!(site.registry.upload_offset(&permit, &busy).await.expect("alive"), sent);
    silent.send(Ok(Bytes::from_static(b"x"))).await.expect("the request still reads");
    drop(silent);
    let late = waiting.await.expect("no panic");
    assert!(matches!(late, Err(RegistryError::UploadUnknown)), "{late:?}");
}
