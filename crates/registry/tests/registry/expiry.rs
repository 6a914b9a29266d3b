//! Upload sessions that rest for too long, and those that do not.

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
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

    fn has_session(&self, id: &UploadId) -> bool {
        self.folder.path().join("uploads").join(id.as_str()).exists()
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
    /// Long against the pauses of a busy machine, since a session is touched four times in it.
    const SHORT: Duration = Duration::from_secs(3);
    let site = Site::with(Settings { upload_lifetime: SHORT, ..Settings::default() });
    let permit = site.permit("tools/a").await;
    let begin = async || site.registry.begin_upload(&permit).expect("begin");
    let (busy, stalled) = (begin().await, begin().await);
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
    let since = Instant::now();
    let mut sent = 0;
    while since.elapsed() < SHORT * 3 / 2 {
        bytes.send(Ok(Bytes::from_static(b"x"))).await.expect("the request reads");
        sent += 1;
        tokio::time::sleep(SHORT / 30).await;
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
