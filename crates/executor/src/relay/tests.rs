use tokio::net::TcpListener;

use super::*;

/// Both ends of a connection that is passed on, and the counts.
async fn passed(idle: Duration) -> (UnixStream, TcpStream, Arc<Counts>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let far = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    let (service, _) = listener.accept().await.expect("accepted");
    let (run, near) = UnixStream::pair().expect("a pair");
    let counts = Arc::new(Counts::default());
    let counted = Arc::clone(&counts);
    let task = tokio::spawn(async move { exchange(near, far, &counted, idle).await });
    (run, service, counts, task)
}

#[tokio::test]
async fn the_end_of_a_question_leaves_room_for_its_answer() {
    let (mut run, mut service, counts, task) = passed(IDLE).await;
    run.write_all(b"question").await.expect("written");
    run.shutdown().await.expect("shut");
    let mut heard = Vec::new();
    service.read_to_end(&mut heard).await.expect("read");
    service.write_all(b"answer").await.expect("written");
    drop(service);
    let mut answer = Vec::new();
    run.read_to_end(&mut answer).await.expect("read");
    task.await.expect("ended");
    assert_eq!((heard.as_slice(), answer.as_slice()), (&b"question"[..], &b"answer"[..]));
    assert_eq!((counts.sent.load(Relaxed), counts.received.load(Relaxed)), (8, 6));
}

#[tokio::test]
async fn a_connection_on_which_nothing_passes_ends() {
    let (mut run, _service, counts, task) = passed(Duration::from_millis(50)).await;
    let mut nothing = Vec::new();
    run.read_to_end(&mut nothing).await.expect("closed");
    task.await.expect("ended");
    assert_eq!(counts.received.load(Relaxed), 0);
}

#[tokio::test]
async fn a_service_that_takes_nothing_holds_nobody_for_ever() {
    let (mut run, _service, counts, task) = passed(Duration::from_millis(200)).await;
    let piece = vec![0; PIECE];
    while run.write_all(&piece).await.is_ok() {}
    task.await.expect("ended");
    assert!(counts.sent.load(Relaxed) > 0);
}

#[tokio::test]
async fn a_name_is_looked_up_when_there_is_a_place_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let service: Service = format!("db:5432 = 127.0.0.1:{port}").parse().expect("a service");
    let lookups = Arc::new(Semaphore::new(1));
    let taken = Arc::clone(&lookups).acquire_owned().await.expect("a place");
    let mut dialled = std::pin::pin!(dial(&service, Arc::clone(&lookups)));
    timeout(Duration::from_millis(50), &mut dialled).await.expect_err("others are looked up");
    drop(taken);
    dialled.await.expect("connected");
    assert_eq!(lookups.available_permits(), 1);
}

#[test]
fn connections_come_in_a_burst_and_then_one_by_one() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    for _ in 0..CONNECTIONS {
        assert!(pace.next <= start);
        pace.made(start);
    }
    assert_eq!(pace.next, start + PACE);
    pace.made(start + PACE);
    assert_eq!(pace.next, start + 2 * PACE);
    // After a rest there is a burst again.
    let later = start + Duration::from_mins(1);
    pace.made(later);
    assert!(pace.next < later);
}

#[test]
fn a_socket_is_named_after_its_service_alone() {
    let name = |text: &str| socket_name(&text.parse().expect("a service"));
    assert_eq!(name("db:1"), name("db:1 = elsewhere:2"));
    assert_ne!(name("db:1"), name("db:2"));
    assert_eq!(name("db:1").len(), 16);
}
