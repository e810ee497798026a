use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::*;
use crate::socket::{self, Tcp as _};
use crate::testing::{connected_pair, run_on_lane};

/// Runs `test` with a reactor, and checks that nothing is left in it.
async fn run<F: Future<Output = ()>>(test: impl FnOnce(Rc<Reactor>) -> F) {
    run_on_lane(async {
        let (reactor, driver) = Reactor::new().unwrap();
        let driver = tokio::task::spawn_local(driver.run());
        test(reactor.clone()).await;
        driver.abort();
        assert!(driver.await.unwrap_err().is_cancelled());
        assert!(reactor.slots.borrow().is_empty(), "a session is left");
    })
    .await;
}

/// A defect in the code of a session.
struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic!("a defect in the code of a session");
    }
}

/// Returns every byte until the client ends its stream.
async fn echo(tcp: SessionTcp) {
    let mut buffer = [0; 64];
    loop {
        socket::readable(&tcp).await.unwrap();
        match tcp.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => assert_eq!(tcp.try_send(&buffer[..len]).unwrap(), len),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

#[tokio::test]
async fn many_sessions_are_served_and_their_slots_freed() {
    run(async |reactor| {
        let mut clients = Vec::new();
        for _ in 0..2 * EVENTS_PER_POLL {
            let (client, tcp) = connected_pair(&reactor).await;
            reactor.spawn(tcp.key(), echo(tcp));
            clients.push(client);
        }
        for round in 0..3_u8 {
            for client in &mut clients {
                client.write_all(&[round]).await.unwrap();
            }
            for client in &mut clients {
                assert_eq!(client.read_u8().await.unwrap(), round);
            }
        }
        for mut client in clients {
            client.shutdown().await.unwrap();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn full_socket_is_writable_again_when_the_client_reads() {
    run(async |reactor| {
        let (mut client, tcp) = connected_pair(&reactor).await;
        let (sender, mut sent) = mpsc::unbounded_channel();
        reactor.spawn(tcp.key(), async move {
            let (mut total, mut full) = (0, 0);
            while full < 3 {
                socket::writable(&tcp).await.unwrap();
                match tcp.try_send(&[7; 64 << 10]) {
                    Ok(len) => total += len,
                    Err(_) => full += 1,
                }
            }
            sender.send(total).unwrap();
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        assert_eq!(Some(received.len()), sent.recv().await);
    })
    .await;
}

#[tokio::test]
async fn panic_ends_one_session_alone() {
    run(async |reactor| {
        let (mut first, tcp) = connected_pair(&reactor).await;
        reactor.spawn(tcp.key(), async move {
            let _guard = PanicOnDrop;
            socket::readable(&tcp).await.unwrap();
        });
        let (mut second, tcp) = connected_pair(&reactor).await;
        reactor.spawn(tcp.key(), echo(tcp));
        first.write_all(b"x").await.unwrap();
        assert!(matches!(first.read(&mut [0]).await, Ok(0) | Err(_)), "the connection ends");
        second.write_all(b"x").await.unwrap();
        assert_eq!(second.read_u8().await.unwrap(), b'x');
    })
    .await;
}

#[tokio::test]
async fn task_that_wakes_itself_does_not_keep_others_from_their_events() {
    run(async |reactor| {
        let stop = Rc::new(Cell::new(false));
        let (_busy, tcp) = connected_pair(&reactor).await;
        let (key, is_stopped) = (tcp.key(), stop.clone());
        reactor.spawn(
            key,
            poll_fn(move |cx| {
                let _ = &tcp;
                cx.waker().wake_by_ref();
                if is_stopped.get() { Poll::Ready(()) } else { Poll::Pending }
            }),
        );
        let (mut client, tcp) = connected_pair(&reactor).await;
        reactor.spawn(tcp.key(), echo(tcp));
        client.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
        stop.set(true);
    })
    .await;
}

#[tokio::test]
async fn timer_and_wake_run_the_task_of_a_session() {
    run(async |reactor| {
        let (mut client, tcp) = connected_pair(&reactor).await;
        let (key, polls) = (tcp.key(), Rc::new(Cell::new(0)));
        let counted = polls.clone();
        reactor.spawn(key, async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            tcp.try_send(b"t").unwrap();
            poll_fn(|_| {
                counted.set(counted.get() + 1);
                if counted.get() < 3 { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            tcp.try_send(b"w").unwrap();
        });
        assert_eq!(client.read_u8().await.unwrap(), b't');
        while polls.get() < 3 {
            // Several calls before the task runs are one.
            reactor.wake(key);
            reactor.wake(key);
            tokio::task::yield_now().await;
        }
        assert_eq!(client.read_u8().await.unwrap(), b'w');
    })
    .await;
}

#[tokio::test]
async fn wake_after_the_end_of_a_session_is_harmless() {
    run(async |reactor| {
        let (_client, tcp) = connected_pair(&reactor).await;
        let key = tcp.key();
        drop(tcp);
        reactor.wake(key);
        let (mut client, tcp) = connected_pair(&reactor).await;
        assert_eq!(tcp.key(), key, "the slot is used again");
        reactor.spawn(tcp.key(), echo(tcp));
        client.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
    })
    .await;
}
