//! The real binary, run as a user would run it.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The binary with nothing around it but these variables.
pub(crate) fn command(arguments: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_merge-sync-proxy"));
    command.args(arguments).env_clear().envs(env.iter().copied());
    command
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    command(arguments, env).output().expect("the binary starts")
}

/// Runs it to its end with an output that nobody reads any more, as after `| head -1`; its exit code and its errors.
pub(crate) fn run_unread(arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command(arguments, env).stdout(writer).output().expect("the binary starts");
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

/// The exit code, and both outputs as text.
pub(crate) fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

/// A folder with one `proxy.toml`.
pub(crate) struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    pub fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("proxy.toml"), config).expect("written");
        Self { folder }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("proxy.toml")
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The binary while it runs.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    readers: Vec<JoinHandle<String>>,
}

/// Reads to the end, telling each line at once.
fn read(stream: impl Read + Send + 'static, told: std::sync::mpsc::Sender<String>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut whole = String::new();
        for line in BufReader::new(stream).lines() {
            let line = line.expect("UTF-8");
            whole.push_str(&line);
            whole.push('\n');
            // Nobody may listen any more.
            let _ = told.send(line);
        }
        whole
    })
}

impl Running {
    pub fn start(arguments: &[&str], env: &[(&str, &str)]) -> Self {
        Self::run(command(arguments, env))
    }

    fn run(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let (told, lines) = channel();
        let out = child.stdout.take().expect("piped");
        let err = child.stderr.take().expect("piped");
        let readers = vec![read(out, told.clone()), read(err, told)];
        Self { child, lines, readers }
    }

    /// `serve` with the file in `folder`; returns once it serves, with the addresses of the proxy and the admin listener.
    pub fn serve(folder: &Folder, env: &[(&str, &str)]) -> (Self, SocketAddr, SocketAddr) {
        Self::serve_with(folder, env, &[])
    }

    /// The same, with more arguments.
    pub fn serve_with(folder: &Folder, env: &[(&str, &str)], more: &[&str]) -> (Self, SocketAddr, SocketAddr) {
        let file = folder.file();
        Self::start(&[&["--config", file.to_str().expect("UTF-8")], more].concat(), env).serving()
    }

    /// The same, with no more than so many files open at a time.
    pub fn serve_with_files(folder: &Folder, files: u32) -> (Self, SocketAddr, SocketAddr) {
        let mut shell = Command::new("/bin/sh");
        let binary = env!("CARGO_BIN_EXE_merge-sync-proxy");
        shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" --config \"$1\""), binary]);
        shell.arg(folder.file()).env_clear();
        Self::run(shell).serving()
    }

    fn serving(self) -> (Self, SocketAddr, SocketAddr) {
        let line = self.line_with("\"serving\"");
        let line: serde_json::Value = serde_json::from_str(&line).expect("a JSON line");
        let address = |field: &str| {
            let text = line[field].as_str().expect("a field");
            text.split(", ").find_map(|text| text.parse().ok()).expect("an address")
        };
        let (proxy, admin) = (address("listen"), address("admin"));
        (self, proxy, admin)
    }

    /// The next line of either output that contains `part`.
    pub fn line_with(&self, part: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let line = self.lines.recv_timeout(until.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("no line has {part}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("there is a kill").success());
    }

    /// How it ended, with all that it has said.
    pub fn end(mut self) -> (ExitStatus, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                break status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let said = self.readers.drain(..).map(|reader| reader.join().expect("no panic")).collect();
        (status, said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
