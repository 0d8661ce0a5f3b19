//! HTTP/1.1 by hand.

use tokio::io::AsyncReadExt;

use super::{After, Linger, PAGE, State, Step, Stream, play, say};

/// The answer of an upstream that is well.
pub(crate) fn page() -> String {
    whole("200 OK", "content-type: application/json\r\n", PAGE)
}

/// A whole answer with a `Content-Length`; each line of `fields` has its end.
pub(crate) fn whole(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}", body.len())
}

/// Answers one request after the other until the steps end the connection.
pub(super) async fn serve(mut stream: impl Stream, state: &State, socket: &Linger) {
    let mut read = Vec::new();
    loop {
        while !read.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read_buf(&mut read).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        // Requests of the proxy for pages have no body.
        read.clear();
        let steps = state.arrive().unwrap_or_else(|| vec![say(page())]);
        let holds = steps.iter().any(|step| matches!(step, Step::Hold));
        if play(&mut stream, &steps, 0, socket).await == After::Ends {
            return;
        }
        if holds {
            // Nothing comes after an answer that does not end; the connection ends when the other side gives it up.
            while matches!(stream.read_buf(&mut read).await, Ok(1..)) {}
            return;
        }
    }
}
