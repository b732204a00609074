use std::os::fd::AsFd;

use tokio::net::{TcpListener, TcpStream};

use super::{
    super::spdy::{frame::Frame, headers::Deflater},
    *,
};

/// A stream of nobody's.
pub fn stream(id: u32, headers: &[(&str, &str)]) -> (Opened, Outbound) {
    let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    let opened = Opened {
        stream: id,
        headers: Headers(headers.collect()),
        inbound: Inbound {
            pieces: mpsc::channel(1).1,
        },
    };
    let outbound = Outbound {
        stream: id,
        to: mpsc::channel(1).0,
    };
    (opened, outbound)
}

/// A client's socket, and the server's with what is needed to carry it.
async fn pair() -> (TcpStream, Client<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (io, _) = listener.accept().await.unwrap();
    let socket = io.as_fd().try_clone_to_owned().unwrap();
    let wire = Wire::Spdy;
    (ours, Client { io, socket, wire })
}

fn opening(stream: u32) -> BytesMut {
    let mut out = BytesMut::new();
    let block = Deflater::default().block(&Headers::default());
    Frame::SynStream {
        stream,
        fin: false,
        block,
    }
    .put(&mut out);
    out
}

fn data(stream: u32, length: usize) -> BytesMut {
    let mut out = BytesMut::new();
    Frame::Data {
        stream,
        fin: false,
        bytes: vec![7; length].into(),
    }
    .put(&mut out);
    out
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_waited_in_a_full_stream_arrives_whole() {
    let (mut client, served) = pair().await;
    let work = |mut link: Link| async move {
        let mut opened = link.opened().await.unwrap();
        sleep(Duration::from_millis(300)).await;
        let mut count = 0;
        while count < 32 << 20 {
            let Came::Bytes(bytes) = opened.inbound.next().await else {
                panic!("only {count} bytes came");
            };
            assert!(bytes.iter().all(|&byte| byte == 7));
            count += bytes.len();
        }
        assert_eq!(count, 32 << 20);
    };
    let serving = tokio::spawn(carry(served, LONG, work));
    client.write_all(&opening(1)).await.unwrap();
    let piece = data(1, 1 << 20);
    for _ in 0..32 {
        client.write_all(&piece).await.unwrap();
    }
    client.shutdown().await.unwrap();
    // It ends its half without waiting for ours, so whether it hears our goodbye is open.
    let _ = timeout(LONG, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_work_even_when_it_is_not_read() {
    let (mut client, served) = pair().await;
    let work = |mut link: Link| async move {
        let _opened = link.opened().await.unwrap();
        std::future::pending().await
    };
    let serving = tokio::spawn(carry(served, LONG, work));
    client.write_all(&opening(1)).await.unwrap();
    // With the reply unread its end would be a reset, which overtakes what it sent.
    client.read_exact(&mut [0; 32]).await.unwrap();
    let (piece, mut sent) = (data(1, 1 << 20), 0);
    while let Ok(written) = timeout(Duration::from_millis(300), client.write_all(&piece)).await {
        written.unwrap();
        sent += 1;
    }
    // What the kernel holds for both ends, and a quarter of a mebibyte of ours.
    assert!(sent < 16, "{sent} MiB were taken although nobody reads them");
    drop(client);
    let ended = timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
    assert!(matches!(ended, Err(Ended::Left)), "{ended:?}");
}

#[tokio::test]
async fn the_last_bytes_arrive_although_the_client_still_sends() {
    let (client, served) = pair().await;
    let work = |mut link: Link| async move {
        let opened = link.opened().await.unwrap();
        let outbound = link.outbound(opened.stream);
        outbound.send(vec![1; 1 << 20].into()).await;
        outbound.finish(Bytes::from_static(b"end")).await;
    };
    let serving = tokio::spawn(carry(served, LONG, work));
    let (mut from, mut to) = client.into_split();
    to.write_all(&opening(1)).await.unwrap();
    to.write_all(&data(1, 512 << 10)).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let mut received = Vec::new();
    from.read_to_end(&mut received).await.unwrap();
    // Reply, two data frames, farewell; each with its head.
    let goodbye = &received[received.len() - 16 - 8 - 3..];
    assert_eq!(&goodbye[8..11], b"end");
    assert_eq!(goodbye[11..15], [0x80, 3, 0, 7]);
    assert!(received.len() > 1 << 20);
    drop(to);
    timeout(LONG, serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn silence_ends_a_session_and_traffic_either_way_keeps_it() {
    let (mut client, served) = pair().await;
    let work = |mut link: Link| async move {
        let opened = link.opened().await.unwrap();
        let outbound = link.outbound(opened.stream);
        for _ in 0..4 {
            sleep(Duration::from_millis(200)).await;
            outbound.send(Bytes::from_static(b"x")).await;
        }
        std::future::pending().await
    };
    let idle = Duration::from_millis(400);
    let began = Instant::now();
    let serving = tokio::spawn(carry(served, idle, work));
    client.write_all(&opening(1)).await.unwrap();
    let ended = timeout(LONG, serving).await.unwrap().unwrap();
    assert!(matches!(ended, Err(Ended::Idle(_))), "{ended:?}");
    assert!(
        began.elapsed() >= Duration::from_millis(4 * 200 + 390),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn what_is_no_spdy_ends_it() {
    let (mut client, served) = pair().await;
    let serving = tokio::spawn(carry(served, LONG, |_| std::future::pending()));
    client.write_all(b"\x80\x02\0\x01\0\0\0\x0a0123456789").await.unwrap();
    let ended = timeout(LONG, serving).await.unwrap().unwrap();
    assert!(matches!(ended, Err(Ended::Protocol(_))), "{ended:?}");
}
