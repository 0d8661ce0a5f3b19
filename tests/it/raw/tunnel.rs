//! A forward proxy that is asked with CONNECT.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How it takes a request.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// Connects whoever shows this credential, or everybody.
    Opens(Option<&'static str>),
    /// Says this.
    Says(&'static str),
    /// Says nothing.
    Silent,
}

/// A forward proxy on a port of its own.
pub(crate) struct Tunnel {
    pub address: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    /// The heads of the requests.
    asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Tunnel {
    pub async fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (manner, asked) = (Arc::new(Mutex::new(manner)), Arc::<Mutex<Vec<String>>>::default());
        let serving = tokio::spawn(accept(listener, manner.clone(), asked.clone()));
        Self { address, manner, asked, serving }
    }

    pub fn becomes(&self, manner: Manner) {
        *self.manner.lock() = manner;
    }

    /// The heads of the requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, manner: Arc<Mutex<Manner>>, asked: Arc<Mutex<Vec<String>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.expect("it is bound");
        connections.spawn(serve(socket, *manner.lock(), asked.clone()));
    }
}

async fn serve(mut socket: TcpStream, manner: Manner, asked: Arc<Mutex<Vec<String>>>) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let Ok(1..) = socket.read_buf(&mut read).await else { return };
    }
    let head = String::from_utf8(read).expect("a head is ASCII");
    asked.lock().push(head.clone());
    let answer = match manner {
        Manner::Silent => return std::future::pending().await,
        Manner::Says(answer) => answer,
        Manner::Opens(Some(credential)) if !head.contains(&format!("Proxy-Authorization: {credential}\r\n")) => {
            "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\n\r\n"
        }
        Manner::Opens(_) => {
            let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).expect("a target");
            let Ok(mut upstream) = TcpStream::connect(target).await else { return };
            if socket.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_ok() {
                let _ = copy_bidirectional(&mut socket, &mut upstream).await;
            }
            return;
        }
    };
    let _ = socket.write_all(answer.as_bytes()).await;
}
