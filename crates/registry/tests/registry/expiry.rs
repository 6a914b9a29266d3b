//! Upload sessions that rest for too long, and those that do not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;
use torno_metadata::Metadata;
use torno_oci::UploadId;
use torno_registry::{DEFAULT_UPLOAD_LIFETIME as LIFETIME, RegistryError, Settings};

use crate::{NO_GRACE, Site, name};

impl Site {
    /// A session with some bytes that was last used when; as a server that ended since has left it.
    async fn old_session(&self, byte: u8, used: Timestamp) -> UploadId {
        let id = UploadId::from_bytes([byte; 16]);
        let (name, ada) = (name("tools/a"), "ada".parse().expect("name"));
        let metadata = Metadata::open(&self.folder.path().join("torno.db")).expect("open");
        metadata.begin_upload(&id, &name, &ada, &ada, used).await.expect("begin");
        std::fs::write(self.folder.path().join("uploads").join(id.as_str()), b"bytes").expect("write");
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
    let now = Timestamp::now();
    let minute = Duration::from_mins(1);
    let late = site.old_session(1, now - LIFETIME - minute).await;
    let early = site.old_session(2, now - LIFETIME + minute).await;
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
async fn a_session_that_is_used_lives_on() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    let id = site.old_session(1, Timestamp::now() - LIFETIME + Duration::from_mins(1)).await;
    site.registry.upload_offset(&permit, &id).await.expect("alive");
    // As a gc that starts some minutes later sees it.
    let metadata = Metadata::open(&site.folder.path().join("torno.db")).expect("open");
    let later = Timestamp::now() - LIFETIME + Duration::from_mins(5);
    assert!(metadata.expire_uploads(later).await.expect("expire").is_empty());
}

#[tokio::test]
async fn an_expiry_that_was_cut_off_is_gone_on_with() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    let id = site.old_session(1, Timestamp::now() - LIFETIME - Duration::from_mins(1)).await;
    // What a process leaves that dies between giving a session up and removing it.
    let metadata = Metadata::open(&site.folder.path().join("torno.db")).expect("open");
    let given_up = metadata.expire_uploads(Timestamp::now() - LIFETIME).await.expect("expire");
    assert_eq!(given_up, std::slice::from_ref(&id));
    let used = site.registry.upload_offset(&permit, &id).await;
    assert!(matches!(used, Err(RegistryError::UploadUnknown)), "{used:?}");
    assert_eq!(site.registry.collect(NO_GRACE, |_, _| ()).await.expect("gc").uploads, 1);
    assert!(!site.has_session(&id));
}

#[tokio::test]
async fn bytes_that_arrive_keep_a_session_alive_and_a_connection_alone_does_not() {
    /// Long against the pauses of a busy machine, since a session is touched four times in it.
    const SHORT: Duration = Duration::from_secs(3);
    let site = Site::with(Settings { upload_lifetime: SHORT, ..Settings::default() });
    let permit = site.permit("tools/a").await;
    let begin = async || site.registry.begin_upload(&permit).await.expect("begin");
    let (busy, stalled) = (begin().await, begin().await);
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
