//! A headless Chromium under remote control (the protocol of Chrome's developer tools, over one socket).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Set to 1 where there is no browser and none is wanted.
pub(crate) const SKIP: &str = "MERGE_SYNC_PROXY_SKIP_BROWSER";

/// A browser with one page; gone when it is dropped.
pub(crate) struct Browser {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Value,
    next: u64,
    /// What the page complained about: exceptions, console errors, refused loads.
    pub complaints: Vec<String>,
    _process: Child,
    _profile: TempDir,
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.iter().flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)));
    found.into_iter().find(|file| file.is_file()).unwrap_or_else(|| {
        panic!("no Chromium: apt-get install --no-install-recommends chromium, or set {SKIP}=1 to do without this test")
    })
}

impl Browser {
    /// Starts one; `None` if that is not wanted.
    pub async fn start() -> Option<Self> {
        if std::env::var(SKIP).is_ok_and(|skip| skip == "1") {
            return None;
        }
        let profile = tempfile::tempdir().expect("a folder");
        let mut process = Command::new(program())
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--hide-scrollbars", "--no-proxy-server", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the browser starts");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let told = async {
            while let Some(line) = lines.next_line().await.expect("UTF-8") {
                if let Some((_, url)) = line.split_once("DevTools listening on ") {
                    return url.trim().to_owned();
                }
            }
            panic!("the browser ended without a word");
        };
        let url = timeout(PATIENCE, told).await.expect("the browser says where it listens");
        // What it says later is of no interest, but it must have somewhere to say it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (socket, _) = connect_async(&url).await.expect("the browser takes the connection");
        let (session, complaints) = (Value::Null, Vec::new());
        let mut browser = Self { socket, session, next: 0, complaints, _process: process, _profile: profile };
        let target = browser.send("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = browser.send("Target.attachToTarget", attach).await["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.send(&format!("{domain}.enable"), json!({})).await;
        }
        Some(browser)
    }

    /// Sends a command and waits for its result.
    pub async fn send(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut command = json!({"id": id, "method": method, "params": parameters});
        if self.session.is_string() {
            command["sessionId"] = self.session.clone();
        }
        self.socket.send(Message::text(command.to_string())).await.expect("the browser is there");
        let answered = async {
            loop {
                let message = self.socket.next().await.expect("the browser is there").expect("a message");
                let Message::Text(text) = message else { continue };
                let message: Value = serde_json::from_str(&text).expect("JSON");
                if message["id"] == id {
                    assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                    return message["result"].clone();
                }
                self.complaints.extend(complaint(&message));
            }
        };
        timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("no answer to {method}"))
    }

    /// Goes to a page.
    pub async fn open(&mut self, url: &str) {
        self.send("Page.navigate", json!({"url": url})).await;
    }

    /// The value of a JavaScript expression; promises are waited for.
    pub async fn value(&mut self, expression: &str) -> Value {
        let call = json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let result = self.send("Runtime.evaluate", call).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true. The page is asked again and again, since it may be another one by then.
    pub async fn until(&mut self, expression: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if self.value(&format!("Boolean({expression})")).await == true {
                return;
            }
            if tokio::time::Instant::now() > deadline {
                let page = self.value("document.body.innerText").await;
                panic!("never true: {expression}\n{}\n{:?}", page.as_str().unwrap_or_default(), self.complaints);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks in the middle of the first element that fits the selector, as a mouse does; again if it has moved meanwhile, as rows do
    /// when news come in.
    pub async fn click(&mut self, selector: &str) {
        self.until(&format!("document.querySelector({selector:?})?.checkVisibility()")).await;
        let aim = format!(
            "(() => {{ const it = document.querySelector({selector:?}); window.hit = false; \
             it.addEventListener('click', () => {{ window.hit = true; }}, {{once: true, capture: true}}); \
             it.scrollIntoView({{block: 'center', behavior: 'instant'}}); \
             const box = it.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        for _ in 0..5 {
            let middle = self.value(&aim).await;
            for kind in ["mousePressed", "mouseReleased"] {
                let event = json!({"type": kind, "x": middle[0], "y": middle[1], "button": "left", "clickCount": 1});
                self.send("Input.dispatchMouseEvent", event).await;
            }
            if self.value("window.hit").await == true {
                return;
            }
        }
        panic!("{selector} cannot be clicked: something covers it, or it moves all the time");
    }

    /// Types into what has the focus.
    pub async fn type_text(&mut self, text: &str) {
        self.send("Input.insertText", json!({"text": text})).await;
    }

    /// Presses a key, such as `Enter` or `Tab`.
    pub async fn press(&mut self, key: &str, code: u32) {
        for kind in ["rawKeyDown", "char", "keyUp"] {
            let text = if key == "Enter" { "\r" } else { "" };
            if kind == "char" && text.is_empty() {
                continue;
            }
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.send("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Makes the window so wide, and light or dark.
    pub async fn look(&mut self, width: u32, scheme: &str) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.send("Emulation.setDeviceMetricsOverride", size).await;
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.send("Emulation.setEmulatedMedia", media).await;
    }

    /// Keeps a picture of the whole page among the outputs of the tests.
    pub async fn picture(&mut self, name: &str) {
        let picture =
            self.send("Page.captureScreenshot", json!({"captureBeyondViewport": true, "format": "png"})).await;
        let bytes = STANDARD.decode(picture["data"].as_str().expect("data")).expect("base64");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("status-page");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(name), bytes).expect("written");
    }
}

/// What a message of the browser says that no page should give it reason to say.
fn complaint(message: &Value) -> Option<String> {
    let parameters = &message["params"];
    match message["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" if matches!(parameters["type"].as_str(), Some("error" | "warning" | "assert")) => {
            Some(parameters["args"].to_string())
        }
        "Log.entryAdded" if matches!(parameters["entry"]["level"].as_str(), Some("error" | "warning")) => {
            Some(format!("{} {}", parameters["entry"]["text"], parameters["entry"]["url"]))
        }
        _ => None,
    }
}
