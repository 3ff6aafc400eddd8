//! Serving: a server that ends and comes back under load drops nothing and does nothing twice.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, extract::Path, routing::post};
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

const LIMIT: Duration = Duration::from_secs(20);

type Done = Arc<Mutex<BTreeMap<String, usize>>>;

fn app(done: &Done) -> Router {
    let done = done.clone();
    Router::new().route(
        "/{id}",
        post(move |Path(id): Path<String>, body: String| async move {
            *done.lock().unwrap().entry(id).or_insert(0) += 1;
            body
        }),
    )
}

/// A server that ends when the sender is used.
async fn start(address: SocketAddr, done: &Done) -> (oneshot::Sender<()>, tokio::task::JoinHandle<()>, SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, asked) = oneshot::channel();
    let app = app(done);
    let running = tokio::spawn(async move {
        let asked = async { _ = asked.await };
        sdk::serve(listener, app, asked, Duration::from_secs(10)).await.unwrap();
    });
    (end, running, address)
}

/// Posts without a pause on kept connections; one that was told to be the last is made anew.
async fn client(number: usize, address: SocketAddr, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
    let mut turn = 0;
    'connections: loop {
        // Refused: nothing was sent, and the next server is not there yet.
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(_) if stop.load(SeqCst) => return,
            Err(_) => {
                tokio::task::yield_now().await;
                continue;
            }
        };
        let (mut client, connection) = http1::handshake::<_, Full<bytes::Bytes>>(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        loop {
            if stop.load(SeqCst) {
                return;
            }
            if client.ready().await.is_err() {
                continue 'connections;
            }
            turn += 1;
            let request = Request::post(format!("/{number}-{turn}")).header("host", "a").body(Full::from("text"));
            let response = client.send_request(request.unwrap()).await.unwrap();
            let last = response.headers().get(header::CONNECTION).is_some_and(|v| v == "close");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "text");
            answered.fetch_add(1, SeqCst);
            if last {
                continue 'connections;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_and_comes_back_under_load_drops_nothing_and_does_nothing_twice() {
    let done = Done::default();
    // An address of this process's own: nobody takes its port while it is free.
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let own = SocketAddr::from(([127, 50 | a, b, c.max(1)], 0));
    let (mut end, mut running, address) = start(own, &done).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4).map(|n| tokio::spawn(client(n, address, stop.clone(), answered.clone()))).collect();
    for _ in 0..10 {
        more(&answered).await;
        end.send(()).unwrap();
        tokio::time::timeout(LIMIT, running).await.expect("it ends in time").unwrap();
        (end, running, _) = start(address, &done).await;
    }
    more(&answered).await;
    stop.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let done = done.lock().unwrap();
    let all = answered.load(SeqCst);
    assert_eq!((done.len(), done.values().sum::<usize>()), (all, all), "each once");
}

async fn more(answered: &AtomicUsize) {
    let before = answered.load(SeqCst);
    let more = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        while answered.load(SeqCst) < before + 50 {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(LIMIT, more).await.expect("50 more answers in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_may_bring_a_last_request_and_is_then_closed_and_a_silent_one_too() {
    let (end, running, address) = start(SocketAddr::from(([127, 0, 0, 1], 0)), &Done::default()).await;
    let mut late = TcpStream::connect(address).await.unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let request = b"POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    late.write_all(request).await.unwrap();
    let mut head = [0; 15];
    late.read_exact(&mut head).await.unwrap();
    end.send(()).unwrap();
    late.write_all(request).await.unwrap();
    let mut rest = String::new();
    tokio::time::timeout(LIMIT, late.read_to_string(&mut rest)).await.expect("an end in time").unwrap();
    // Whether the answer says `connection: close` depends on which the server sees first, the request or the end: answered
    // and then closed it is either way.
    assert_eq!(rest.matches("HTTP/1.1 200 OK").count(), 1, "{rest}");
    let read = tokio::time::timeout(LIMIT, silent.read(&mut [0; 1])).await.expect("an end in time");
    assert_eq!(read.unwrap(), 0);
    tokio::time::timeout(LIMIT, running).await.expect("it ends in time").unwrap();
}
