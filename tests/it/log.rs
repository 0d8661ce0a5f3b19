//! The log must never hold up the proxy: not if it cannot be written, and not if nobody reads it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Folder, command};
use crate::support::SYNC_STATUS;
use sha2::{Digest, Sha256};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(30);

const KEY: &str = "msp_of_a_team";

/// More lines than the log may hold, and than a pipe takes beside it.
const MANY: usize = 12_000;

/// A proxy whose log goes somewhere else.
struct Proxy {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    folder: Folder,
}

/// A port that the system has just called free: where no line can be read, none says which it is.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port")
}

impl Proxy {
    fn start(telemetry: &str, log: impl Into<Stdio>) -> Self {
        Self::start_by(telemetry, log, |arguments| command(arguments, &[]))
    }

    fn start_by(telemetry: &str, log: impl Into<Stdio>, start: impl Fn(&[&str]) -> Command) -> Self {
        let [address, admin] = [free(), free()];
        let folder = Folder::new(&format!(
            "[server]\nlisten = ['{address}']\ndrain = '1s'\n[admin]\nlisten = '{admin}'\n\
             [upstreams.us]\nbase_url = 'http://127.0.0.1:1'\napi_key = 'test-api-key'\n\
             [[accounts]]\nname = 'acme'\ntoken = 'token-of-acme'\n\
             [[consumers]]\nname = 'team'\nkey_sha256 = '{}'\naccounts = []\n[telemetry]\n{telemetry}\n",
            hex::encode(Sha256::digest(KEY)),
        ));
        let file = folder.file();
        let child = start(&["--config", file.to_str().expect("UTF-8")]).stderr(log).spawn();
        let proxy = Self { child: child.expect("the binary starts"), address, admin, folder };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(admin).is_err() {
            assert!(Instant::now() < until, "it does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        proxy
    }

    /// Asks so often, each time for another account, so that many requests have an audit line as well; all must be answered.
    fn answers(&self, times: usize) {
        let stream = connect(self.address).expect("it accepts");
        let mut answers = BufReader::new(stream.try_clone().expect("a descriptor"));
        for number in 0..times {
            let request = format!(
                "GET {SYNC_STATUS} HTTP/1.1\r\nHost: proxy\r\nAuthorization: Bearer {KEY}\r\nX-Account-Token: of-{number}\r\n\r\n"
            );
            (&stream).write_all(request.as_bytes()).expect("it reads");
            let status = whole(&mut answers).unwrap_or_else(|error| panic!("no answer to request {number}: {error}"));
            assert!(status.starts_with("HTTP/1.1 403 "), "{status}");
        }
        let mut admin = connect(self.admin).expect("it accepts");
        admin.write_all(b"GET /livez HTTP/1.1\r\nHost: proxy\r\n\r\n").expect("it reads");
        let alive = whole(&mut BufReader::new(admin)).expect("an answer");
        assert!(alive.starts_with("HTTP/1.1 200 "), "{alive}");
    }

    /// How many lines the metrics say are missing.
    fn lost(&self) -> usize {
        let mut admin = connect(self.admin).expect("it accepts");
        let request = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        admin.write_all(request).expect("it reads");
        let mut text = String::new();
        admin.read_to_string(&mut text).expect("an answer");
        let lost = text.lines().find_map(|line| line.strip_prefix("merge_sync_proxy_log_lines_lost_total "));
        lost.expect("a metric").trim_end_matches(".0").parse().expect("a whole number")
    }

    /// What is not about a request is a line as well.
    fn fails_to_reload(&self) {
        std::fs::write(self.folder.file(), "nothing = 1").expect("written");
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("there is a kill").success());
    }

    /// Stops it; it must end soon after the drain.
    fn stop(mut self) -> ExitStatus {
        self.signal("-TERM");
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads one answer with a length, and returns its first line.
fn whole(answers: &mut impl BufRead) -> io::Result<String> {
    let (mut first, mut length) = (String::new(), 0);
    answers.read_line(&mut first)?;
    loop {
        let mut field = String::new();
        if answers.read_line(&mut field)? <= 2 {
            break;
        }
        let field = field.to_lowercase();
        length =
            field.strip_prefix("content-length:").map_or(Ok(length), |text| text.trim().parse()).expect("a number");
    }
    answers.read_exact(&mut vec![0; length])?;
    Ok(first)
}

const FORMATS: [&str; 4] =
    ["log = 'json'", "log = 'pretty'", "log = 'json'\naccess_log = false", "log = 'pretty'\naccess_log = false"];

#[test]
fn a_log_that_cannot_be_written_costs_its_lines_and_nothing_else() {
    for telemetry in FORMATS {
        let full = File::options().write(true).open("/dev/full").expect("there is one");
        let proxy = Proxy::start(telemetry, full);
        proxy.answers(100);
        proxy.fails_to_reload();
        std::thread::sleep(Duration::from_millis(300));
        proxy.answers(100);
        assert!(proxy.lost() > 50, "{telemetry}");
        assert_eq!(proxy.stop().code(), Some(0), "{telemetry}");
    }
}

#[test]
fn a_log_that_has_grown_to_the_largest_size_of_a_file_costs_its_lines_and_nothing_else() {
    // Beyond that size the kernel does not only refuse to write: it sends a signal that ends who knows nothing of it.
    let limited = |arguments: &[&str]| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "ulimit -f 4; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_merge-sync-proxy")]);
        shell.args(arguments).env_clear();
        shell
    };
    for telemetry in FORMATS {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let proxy = Proxy::start_by(telemetry, log.reopen().expect("it is there"), limited);
        proxy.answers(100);
        proxy.fails_to_reload();
        std::thread::sleep(Duration::from_millis(300));
        proxy.answers(100);
        assert!(proxy.lost() > 0, "{telemetry}");
        assert_eq!(proxy.stop().code(), Some(0), "{telemetry}");
        let written = log.as_file().metadata().expect("it is there").len();
        assert!([4 * 512, 4 * 1024].contains(&written), "{telemetry}: {written}");
    }
}

#[test]
fn a_log_whose_reader_has_gone_costs_its_lines_and_nothing_else() {
    for telemetry in FORMATS {
        let (reader, log) = io::pipe().expect("a pipe");
        let proxy = Proxy::start(telemetry, log);
        drop(reader);
        proxy.answers(100);
        assert_eq!(proxy.stop().code(), Some(0), "{telemetry}");
    }
}

#[test]
fn a_log_that_nobody_reads_holds_up_neither_answers_nor_the_end() {
    for telemetry in FORMATS {
        let (_unread, log) = io::pipe().expect("a pipe");
        let proxy = Proxy::start(telemetry, log);
        proxy.answers(MANY);
        proxy.fails_to_reload();
        std::thread::sleep(Duration::from_millis(300));
        proxy.answers(10);
        assert_eq!(proxy.stop().code(), Some(0), "{telemetry}");
    }
}

#[test]
fn a_log_that_is_read_again_says_how_many_lines_are_missing() {
    for telemetry in &FORMATS[..2] {
        let (mut unread, log) = io::pipe().expect("a pipe");
        let proxy = Proxy::start(telemetry, log);
        proxy.answers(MANY);
        let lost = proxy.lost();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            unread.read_to_string(&mut text).map(|_| text)
        });
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(proxy.stop().code(), Some(0));
        let text = reader.join().expect("no panic").expect("UTF-8");
        let lines = text.lines().filter(|line| line.contains(SYNC_STATUS)).count();
        let notice = text.lines().find(|line| line.contains("left_out")).expect("a line says so");
        let digits =
            notice.split("left_out").nth(1).expect("a number").trim_start_matches(|c: char| !c.is_ascii_digit());
        let digits = digits.split(|c: char| !c.is_ascii_digit()).next().expect("a number");
        let left_out: usize = digits.parse().expect("a number");
        assert_eq!((lines + left_out, lost), (MANY, left_out), "{notice}");
        assert!(left_out > 0 && text.lines().last().is_some_and(|line| line.contains("drained")), "{telemetry}");
    }
}

#[test]
fn why_a_start_fails_is_told_although_the_log_has_begun() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    for format in ["json", "pretty"] {
        let folder = Folder::new(&format!(
            "[server]\nlisten = ['{address}']\n[upstreams.us]\nbase_url = 'http://127.0.0.1:1'\napi_key = 'plain'\n\
             [telemetry]\nlog = '{format}'\n"
        ));
        let file = folder.file();
        let output = command(&["--config", file.to_str().expect("UTF-8")], &[]).output().expect("the binary starts");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{said}");
        let last = said.lines().last().expect("a line");
        assert!(last.starts_with("merge-sync-proxy: ") && last.contains(&address.to_string()), "{said}");
        assert!(said.contains("api_key"), "the warning about the plain key comes before it: {said}");
    }
}

/// A frame of HTTP/2 on the connection itself.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short payload");
    [&[0, 0, length, kind, flags, 0, 0, 0, 0], payload].concat()
}

#[test]
fn a_stranger_writes_no_lines_by_frames_that_mean_nothing() {
    let [settings, ping, reset, ack, end, end_headers] = [4, 6, 3, 1, 1, 4];
    for telemetry in FORMATS {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let proxy = Proxy::start(telemetry, log.reopen().expect("it is there"));
        let mut peer = connect(proxy.address).expect("it accepts");
        let mut said = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(settings, 0, &[])].concat();
        // Answers to what it has never been asked, and then a question, whose answer comes after all that.
        (0..1000).for_each(|_| said.extend(frame(ping, ack, b"unasked!")));
        said.extend(frame(ping, 0, b"the last"));
        peer.write_all(&said).expect("it reads");
        let (mut heard, mut more) = (Vec::new(), [0; 1024]);
        while !heard.windows(8).any(|part| part == b"the last") {
            let read = peer.read(&mut more).expect("an answer");
            assert!(read > 0, "it has closed");
            heard.extend_from_slice(&more[..read]);
        }
        // Requests that are taken back at once end the connection.
        let mut taken_back = Vec::new();
        for number in (1..400_u32).step_by(2) {
            for (kind, flags, payload) in [(1, end | end_headers, &[0x82, 0x86, 0x84][..]), (reset, 0, &[0, 0, 0, 8])] {
                let mut frame = frame(kind, flags, payload);
                frame[5..9].copy_from_slice(&number.to_be_bytes());
                taken_back.extend(frame);
            }
        }
        let _ = peer.write_all(&taken_back);
        while peer.read(&mut more).is_ok_and(|read| read > 0) {}
        assert_eq!(proxy.stop().code(), Some(0), "{telemetry}");
        let text = std::fs::read_to_string(log.path()).expect("UTF-8");
        assert!(text.contains("drained") && !text.contains("h2::"), "{telemetry}: {text}");
    }
}

/// What is written as `?field` shows the insides of a program, which mean nothing to whoever reads a log.
#[test]
fn no_line_has_a_field_in_the_form_for_debugging() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut macros = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("it can be read") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap_or_default();
            for call in source.split("tracing::").skip(1).filter(|rest| rest.contains("!(")) {
                let Some((name, rest)) = call.split_once("!(") else { continue };
                if !["error", "warn", "info", "debug", "trace"].contains(&name) {
                    continue;
                }
                let fields = rest.split(";\n").next().unwrap_or_default();
                assert!(
                    !["(?", " ?", "= ?"].iter().any(|part| format!("({fields}").contains(part)),
                    "{path:?}: {fields}"
                );
                macros += 1;
            }
        }
    }
    assert!(macros > 20, "{macros}: there are log lines");
}
